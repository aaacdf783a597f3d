# SPDX-License-Identifier: GPL-3.0-or-later
"""In the place of sshd: a process of that name that listens, and one of its own for each connection.

A connection's first line says what its process does: `login`, `auth` (as before the login is done), `forward HOST PORT`
(connects there), `listen PORT` (as for a forwarded port).
"""

import os
import socket
import sys

LIKE_CAT = sys.argv[
    1
]  # a program of the name that sessions have, sshd before OpenSSH 9.8 and sshd-session since
PORTS = [int(port) for port in sys.argv[2:]]


def called(name):
    with open("/proc/self/comm", "w") as comm:
        comm.write(name)


def serve(connection, words):
    called(os.path.basename(LIKE_CAT))
    kept = [connection]
    if words[0] == "auth":
        os.set_inheritable(connection.fileno(), True)
        connection.sendall(b"ready\n")
        os.dup2(connection.fileno(), 0)
        os.execv(LIKE_CAT, [os.path.basename(LIKE_CAT) + ": root [net]"])
    if words[0] == "forward":
        kept.append(socket.create_connection((words[1], int(words[2]))))
    if words[0] == "listen":
        kept.append(socket.create_server(("0.0.0.0", int(words[1]))))
        connection.sendall(b"ready\n")
        kept.append(kept[-1].accept()[0])
    connection.sendall(b"ready\n")
    connection.recv(1)
    os._exit(0)


def main():
    called("sshd")
    listeners = []
    for port in PORTS:
        listeners.append(socket.create_server(("::", port), family=socket.AF_INET6, dualstack_ipv6=True))
    print("listening", flush=True)
    while True:
        connection = listeners[0].accept()[0]
        line = connection.makefile("r").readline()
        if os.fork() == 0:
            for listener in listeners:
                listener.close()
            serve(connection, line.split())
        connection.close()


main()
