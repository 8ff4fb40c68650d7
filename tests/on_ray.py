"""A grid on a Ray cluster of three nodes on this machine, one of which dies in the middle.

python on_ray.py GRID.json FOLDER      prints one JSON object
"""

import json
import sys
from pathlib import Path

import ray
from ray.cluster_utils import Cluster

from perdure import sweep
from perdure.sweep import grid
from perdure.sweep.on_ray import OnRay


def main(data: dict, root: Path) -> None:
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    killed: list[int] = []

    def show(moment: sweep.Moment) -> None:
        lessons = sum(one.lessons for one in moment.statuses.values())
        if lessons and not killed:
            killed.append(lessons)
            cluster.remove_node(nodes[0], allow_graceful=False)

    engine = OnRay(cluster.address, "cpu", None, None)
    statuses = sweep.carry_out(sweep.task(grid.build(data), root), engine, show)
    print(json.dumps({"states": [one.state for one in statuses], "lessons_when_killed": killed[0]}))
    cluster.shutdown()


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2]))
    ray.shutdown()
