#!/usr/bin/env python3
"""The data of turned.toml: the recordings of HAPT with the phone turned by 10 to 45 degrees about one of its axes.

usage: turned_data.py [OUT=turned]     (needs numpy; seconds)

Each person has an angle, a direction and an axis of their own, the same for the whole recording. Acceleration and rotation
are turned alike, as in a phone that sits in its pocket in another way.
"""
import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).resolve().parent


def turn(axis, degrees):
    a, b = [i for i in range(3) if i != axis]
    matrix, angle = np.eye(3), np.radians(degrees)
    matrix[[a, b], [a, b]] = np.cos(angle)
    matrix[a, b], matrix[b, a] = -np.sin(angle), np.sin(angle)
    return matrix


def main():
    out = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "turned"
    out.mkdir(exist_ok=True)
    data = np.load(HERE / "hapt_users_1_26.npz")
    x, rng = data["x"].astype(np.float32), np.random.default_rng(0)
    for person in np.unique(data["user"]):
        matrix = turn(rng.integers(3), rng.uniform(10, 45) * rng.choice([-1, 1]))
        mine = data["user"] == person
        x[mine] = np.einsum("ij,nkjt->nkit", matrix, x[mine].reshape(-1, 2, 3, x.shape[-1])).reshape(x[mine].shape)
    np.savez_compressed(out / "turned.npz", x=x.astype(np.float16), y=data["y"], user=data["user"])


main()
