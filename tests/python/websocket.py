"""A WebSocket client that others wrote: opens, talks, and says how it ended.

usage: websocket.py URL TOKEN; one line a thing: `open`, then `closed` or `broken` with what the library said.
"""

import sys
import time

from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

url, token = sys.argv[1:]
with connect(url, additional_headers={"authorization": "Bearer " + token}, close_timeout=5, proxy=None) as socket:
    opened = False
    try:
        while True:
            socket.send("ping")
            assert socket.recv(timeout=20) == "ping"
            if not opened:
                opened = True
                print("open", flush=True)
            time.sleep(0.05)
    except ConnectionClosed as end:
        print("closed" if end.rcvd else "broken", end, flush=True)
