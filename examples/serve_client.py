"""Ask `bwcache serve`, which runs in another shell, for a video, follow it step by step, and save it."""

import json
import os
from urllib.request import Request, urlopen

server = os.environ.get("BWCACHE_SERVER", "http://127.0.0.1:8000")
order = json.dumps({"prompt": "a small red circle moving left", "grade": "balanced", "steps": 20}).encode()
headers = {"Content-Type": "application/json", "Accept": "text/event-stream"}

letters: list[str] = []
said = {}
with urlopen(Request(f"{server}/videos", order, headers)) as answer:
    for line in answer:
        name, _, value = line.decode().rstrip().partition(": ")
        if name == "event":
            kind = value
            letters = [] if kind == "again" else letters
        elif name == "data":
            said[kind] = json.loads(value)
            letters += [said["step"]["action"][0]] if kind == "step" else []

if "done" not in said:
    raise SystemExit(said.get("failed", {}).get("error", "cancelled"))
print("".join(letters), f"{said['done']['reuse_rate']:.0%} reused")
with urlopen(server + said["video"]["links"]["video"]) as video, open("video.mp4", "wb") as file:
    file.write(video.read())
