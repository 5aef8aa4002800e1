"""HTTP as registries need it: connections, proxies, time limits, retries, and what a failure means."""
