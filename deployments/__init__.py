"""Every way a flow gets started: `prefect.yaml` with schedules and work pool, and the demo."""
