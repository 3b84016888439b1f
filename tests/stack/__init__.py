"""The stack that tests and demo start: Envoy with the filter, the sidecar, pods. One way to start each.

| module | job |
| --- | --- |
| `paths` | where the built programs are |
| `process` | child processes that end with their parent, and free ports |
| `envoy` | Envoy's bootstrap, its process, its stats |
| `pods` | simulated vLLM pods |
| `sidecar` | the metrics-sidecar and its endpoint file |
| `stack` | all of it together |
| `client` | requests, as a client would send them |
| `load` | a load that goes on while something else happens: light, or the recorded workload |
| `events` | the sidecar's events, as a page reads them |
| `network` | network namespaces: one for a whole cluster, one for a pod |
| `cluster` | a real API server, and what kubelet and controllers would write into it |
"""
