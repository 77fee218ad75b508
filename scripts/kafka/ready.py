"""Waits until a broker answers a metadata request with so many brokers in it, itself among them.

    ready.py HOST:PORT SECONDS BROKERS [PID]

Exits 0 when it does, 1 when it has not within SECONDS, 2 when the process PID has ended before. An open port alone says
nothing: a broker accepts connections long before it serves them.
"""

import os
import socket
import struct
import sys
import time

# Metadata request version 4: API key 3, correlation id 1, client id "ready"; no topics, and none to be created.
BODY = struct.pack(">hhih5si?", 3, 4, 1, 5, b"ready", 0, False)
REQUEST = struct.pack(">i", len(BODY)) + BODY


def brokers(host, port):
    """The number of brokers that the one at this address knows to be alive."""
    with socket.create_connection((host, port), timeout=2) as connection:
        connection.sendall(REQUEST)
        answer = b""
        # Length, correlation id, throttle time, number of brokers: 16 bytes.
        while len(answer) < 16:
            part = connection.recv(4096)
            if not part:
                raise OSError("the connection was closed")
            answer += part
        _, correlation, _, count = struct.unpack(">iiii", answer[:16])
        if correlation != 1:
            raise OSError("this is no broker")
        return count


def ended(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def main():
    host, _, port = sys.argv[1].rpartition(":")
    deadline = time.monotonic() + float(sys.argv[2])
    wanted = int(sys.argv[3])
    pid = int(sys.argv[4]) if len(sys.argv) > 4 else None
    while True:
        try:
            if brokers(host, int(port)) >= wanted:
                return 0
        except OSError:
            pass
        if pid is not None and ended(pid):
            return 2
        if time.monotonic() >= deadline:
            return 1
        time.sleep(0.2)


try:
    sys.exit(main())
except KeyboardInterrupt:
    sys.exit(130)
