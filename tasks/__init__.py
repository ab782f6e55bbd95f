"""Every integration function as a retryable Prefect task, in one module for each provider."""
