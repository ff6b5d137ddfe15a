"""What `/metrics` tells, in Prometheus' format."""

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30)
SHARES = tuple(share / 10 for share in range(1, 12))
SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


class Metrics:
    """Counters and histograms of one server."""

    def __init__(self):
        self.registry = CollectorRegistry()
        made = {"registry": self.registry, "namespace": "adavit"}
        self.seconds = Histogram("request_seconds", "Time of a request to /predict", buckets=SECONDS, **made)
        self.photos = Counter("photos", "Photos answered", **made)
        self.refusals = Counter("refusals", "Photos and requests refused", ["kind"], **made)
        self.macs = Histogram("macs_share", "MACs of a photo over the dense model's", buckets=SHARES, **made)
        self.batches = Histogram("batch_size", "Photos in a batch", buckets=SIZES, **made)

    def text(self):
        """All of them, as bytes."""
        return generate_latest(self.registry)
