"""Load on one scoring server, in a process of its own: locust replaces the sockets of its process.

python -m benchmarks.load ADDRESS FILE SECONDS

FILE holds a list of `body` (a request), `label` and `probabilities` (what it must be answered).
Prints one JSON document: what became of all requests, and the time of each that was answered.
"""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import gevent
from locust import FastHttpUser, task
from locust.env import Environment

#: Clients; each has one connection, and asks anew as soon as it is answered.
CONNECTIONS = 8
#: How far a probability may be from the direct prediction.
TOLERANCE = 1e-5


class Reader(FastHttpUser):
    """A client that has one image after another read."""

    concurrency = 1
    asked: "itertools.cycle[dict[str, Any]]"
    found: dict[str, Any]

    @task
    def read(self) -> None:
        """Ask once, and judge the answer."""
        asked = next(self.asked)
        headers = {"Content-Type": "application/json"}
        with self.client.post(
            "/invocations", asked["body"], headers=headers, catch_response=True
        ) as response:
            self.found["sent"] += 1
            if response.status_code != 200:  # 0 where there was no answer at all
                self.found["errors" if response.status_code else "dropped"] += 1
                return
            (answer,) = json.loads(response.text)["predictions"]
            self.found["milliseconds"].append(response.request_meta["response_time"])
            self.found["right"] += answer["label"] == asked["label"]
            pairs = zip(answer["probabilities"], asked["probabilities"], strict=True)
            self.found["equal"] += all(abs(one - other) <= TOLERANCE for one, other in pairs)


def main(address: str, file: str, seconds: str) -> None:
    """Keep the server busy, and print what became of it."""
    Reader.asked = itertools.cycle(json.loads(Path(file).read_text()))
    Reader.found = {"sent": 0, "errors": 0, "dropped": 0, "right": 0, "equal": 0}
    Reader.found["milliseconds"] = []
    environment = Environment(user_classes=[Reader], host=address, stop_timeout=10)
    runner = environment.create_local_runner()
    runner.start(CONNECTIONS, spawn_rate=CONNECTIONS)
    gevent.sleep(float(seconds))
    runner.quit()  # requests under way are answered first
    print(json.dumps(Reader.found))


if __name__ == "__main__":
    main(*sys.argv[1:])
