"""A process connects to the Workload API and its child calls through that connection, in bare HTTP/2.
`stay`: the parent lives on. `leave`: it ends before the call. `later`: it ends after the first message.
`reuse`: it ends before the call, and its number is given to another process of the same user (`cannot` where it cannot be).
Prints how many messages came, and whether the server ended the stream."""

import os
import select
import signal
import socket
import sys
import time

path, mode = sys.argv[1:]


def frame(kind, flags, stream, payload=b""):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def field(name, value):
    return b"\x00" + bytes([len(name)]) + name + bytes([len(value)]) + value


HEAD = b"".join(
    field(*pair)
    for pair in [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/SpiffeWorkloadAPI/FetchX509SVID"),
        (b":authority", b"localhost"),
        (b"content-type", b"application/grpc"),
        (b"te", b"trailers"),
        (b"workload.spiffe.io", b"true"),
    ]
)
CALL = frame(1, 4, 1, HEAD) + frame(0, 1, 1, bytes(5))
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0)

connection = socket.socket(socket.AF_UNIX)
connection.connect(path)
connection.sendall(PREFACE)
parent = os.getpid()
if os.fork():
    # The parent never calls; it is there or it is not.
    if mode not in ("leave", "reuse"):
        signal.pause()
    os._exit(0)


def reuse(number):
    """Until the number is free, then until it is given away again."""
    for _ in range(1000):
        try:
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(number - 1))
        except OSError:
            return False
        child = os.fork()
        if child == 0:
            # It holds no connection.
            connection.close()
            signal.pause()
        if child == number:
            return True
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        time.sleep(0.01)
    return False


while mode in ("leave", "reuse") and os.getppid() == parent:
    time.sleep(0.01)
if mode == "reuse" and not reuse(parent):
    print("cannot", flush=True)
    sys.exit()
got, messages, ended = b"", 0, False
try:
    connection.sendall(CALL)
except OSError:
    # The server found nobody behind the connection already when it accepted it.
    ended = True
end = time.monotonic() + (2 if mode == "stay" else 20)
while not ended and (left := end - time.monotonic()) > 0:
    if not select.select([connection], [], [], left)[0]:
        break
    try:
        more = connection.recv(65536)
    except OSError:
        more = b""
    ended |= not more
    got += more
    while len(got) >= 9 and len(got) >= 9 + (length := int.from_bytes(got[:3], "big")):
        kind, flags, stream = got[3], got[4], int.from_bytes(got[5:9], "big")
        got = got[9 + length :]
        messages += kind == 0 and stream == 1 and length > 0
        ended |= stream == 1 and (kind == 3 or flags & 1 == 1)
    if messages and mode == "later" and os.getppid() == parent:
        os.kill(parent, signal.SIGKILL)
if mode == "stay":
    os.kill(parent, signal.SIGKILL)
print(messages, "ended" if ended else "open", flush=True)
