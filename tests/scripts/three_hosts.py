"""Three machines, as far as a kernel can make believe: networks, names, /tmp and shared memory of their own."""

import os
import socket
import subprocess
import sys
import time

import distributed
import numpy as np

import parallelkit as pk

SCRIPT, SHARED = __file__, f"/dev/shm/three-hosts-{os.getpid()}"
ADDRESS = "tcp://10.77.0.1:8786"


def ip(*words):
    subprocess.run(["ip", *words], check=True)


def host(number):
    """Start a machine with a worker of two threads on it."""
    begin = (
        f"read go; hostname host{number}; mount -t tmpfs none /tmp; mount -t tmpfs none /dev/shm; "
        f"ip link set lo up; exec {sys.executable} -m distributed.cli.dask_worker {ADDRESS} --no-dashboard "
        f"--no-nanny --nthreads 2 --host 10.77.0.{number}"
    )
    machine = subprocess.Popen(
        ["unshare", "-nmu", "sh", "-c", begin], stdin=subprocess.PIPE, cwd="/"
    )
    own = os.readlink("/proc/self/ns/net")
    while os.readlink(f"/proc/{machine.pid}/ns/net") == own:
        time.sleep(0.01)
    ends = f"link add v{number} type veth peer name eth0 netns {machine.pid}"
    ip(*ends.split())
    ip("link", "set", f"v{number}", "master", "switch", "up")
    there = ["nsenter", "-t", str(machine.pid), "-n", "ip"]
    subprocess.run([*there, "addr", "add", f"10.77.0.{number}/24", "dev", "eth0"], check=True)
    subprocess.run([*there, "link", "set", "eth0", "up"], check=True)
    machine.stdin.write(b"go\n")
    machine.stdin.flush()
    return machine


class Point:
    def __init__(self, x):
        self.x = x


def surroundings(_):
    return socket.gethostname(), os.path.exists(SCRIPT), os.getcwd(), os.path.exists(SHARED)


def entry(i, table, points):
    return table[i] + points[0].x


def nested(_):
    return pk.nesting().cores, pk.map(lambda _: type(Point(1)) is Point, [1])


def draw(_):
    return np.random.random()


def identity(x):
    return x


def main():
    open(SHARED, "w").close()
    ip("link", "set", "lo", "up")
    ip("link", "add", "switch", "type", "bridge")
    ip("addr", "add", "10.77.0.1/24", "dev", "switch")
    ip("link", "set", "switch", "up")
    where = ["--host", "10.77.0.1", "--port", "8786", "--no-dashboard"]
    subprocess.Popen([sys.executable, "-m", "distributed.cli.dask_scheduler", *where], cwd="/")
    machines = [host(2), host(3)]
    for _ in range(600):
        try:
            with distributed.Client(ADDRESS, set_as_default=False, timeout=2) as client:
                client.wait_for_workers(2, timeout=60)
            break
        except (OSError, TimeoutError):
            time.sleep(0.1)
    pool = pk.Pool(backend="dask", address=ADDRESS, chunksize=1)
    seen = set()
    while len(seen) < 2:  # Dask decides where an item runs
        seen.update(pool.map(surroundings, range(40)))
    print(*sorted(seen))
    table, points = np.arange(4e6), [Point(1)]
    expected = [i + 1 for i in range(40)]
    print(pool.map(entry, range(40), table=table, points=points) == expected)
    print(pool.map(nested, [1]))
    local, there = pk.Pool(2, seed=3), pk.Pool(backend="dask", address=ADDRESS, seed=3)
    print(local.map(draw, range(20)) == there.map(draw, range(20)))
    try:
        pool.map(entry, [1], table=pk.share(table), points=points)
    except pk.TransportError as error:
        print(str(error).partition(" of Dask")[0])
    results = pool.uimap(identity, range(300))
    first = next(results)
    machines[1].kill()  # the machine leaves, with what was there
    print(sorted([first, *results]) == list(range(300)))
    pk.shutdown()
    os.unlink(SHARED)


if __name__ == "__main__":
    main()
