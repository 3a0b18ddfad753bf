"""Benchmarks of the runtime: quality by the papers' protocols, latency and throughput."""
