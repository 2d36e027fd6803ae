"""Load on a scoring server, in a separate process because locust replaces sockets globally.

python -m benchmarks.load ADDRESS FILE SECONDS

FILE is a JSON list of objects with `body` (a request), `label` and `probabilities` (the expected
response). Prints a JSON document with counts of all requests and the latency of each response.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, task
from locust.env import Environment

#: Number of clients; each has a connection and sends the next request after each response.
CONNECTIONS = 8
#: Largest accepted difference between a probability and the direct prediction.
TOLERANCE = 1e-5


class Reader(FastHttpUser):
    """A client that sends one image after the other."""

    concurrency = 1
    cases: "itertools.cycle[dict[str, Any]]"
    counts: dict[str, Any]

    @task
    def read(self) -> None:
        """Send a request and check the response."""
        case = next(self.cases)
        headers = {"Content-Type": "application/json"}
        with self.client.post(
            "/invocations", case["body"], headers=headers, catch_response=True
        ) as response:
            self.counts["sent"] += 1
            if response.status_code != 200:  # 0 if there was no response
                self.counts["errors" if response.status_code else "dropped"] += 1
                return
            (answer,) = json.loads(response.text)["predictions"]
            self.counts["milliseconds"].append(response.request_meta["response_time"])
            self.counts["right"] += answer["label"] == case["label"]
            pairs = zip(answer["probabilities"], case["probabilities"], strict=True)
            self.counts["equal"] += all(abs(a - b) <= TOLERANCE for a, b in pairs)


def main(address: str, file: str, seconds: str) -> None:
    """Keep the server busy and print the counts."""
    Reader.cases = itertools.cycle(json.loads(Path(file).read_text()))
    Reader.counts = {"sent": 0, "errors": 0, "dropped": 0, "right": 0, "equal": 0}
    Reader.counts["milliseconds"] = []
    environment = Environment(user_classes=[Reader], host=address, stop_timeout=10)
    runner = environment.create_local_runner()
    runner.start(CONNECTIONS, spawn_rate=CONNECTIONS)
    gevent.sleep(float(seconds))
    runner.quit()  # pending requests finish first
    print(json.dumps(Reader.counts))


if __name__ == "__main__":
    main(*sys.argv[1:])
