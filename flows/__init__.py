"""Compositions of tasks. The file is named like its flow; parameters are plain values that forms and YAML can hold."""
