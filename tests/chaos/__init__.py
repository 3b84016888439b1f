"""What happens when parts break under load: `make test-chaos`.

| module | job |
| --- | --- |
| `side` | a gateway with pods and clients of its own: with warmpath, or plain |
| `hits` | what the surviving caches allowed, and when it was reached again |
| `faults/` | the faults: how each begins and ends |
| `matrix` | runs faults on both sides at once, and counts |
| `report` | the table |
"""
