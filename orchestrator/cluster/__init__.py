"""The orchestrator in a Kubernetes cluster: the only code that knows Kubernetes, and nothing needs it."""
