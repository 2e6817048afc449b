#!/usr/bin/env python3
"""The figures acclimate has to reach on few-shot pictures: a linear probe on frozen EfficientNet-lite0 features. Run by hand.

usage: fashion_reference.py MODEL.onnx FOLDER [--out reference]
needs: onnxruntime, onnx, scikit-learn, pillow; FOLDER from fashion_subset.py

For each split of FOLDER: scikit-learn's logistic regression on what the model's last linear layer reads, at its default strength
C = 1, and with the C of a grid that is best on the test pictures (an advantage that nothing deployed has). Pictures are prepared as acclimate does by default: three equal channels, the model's size cut
out of the centre of 8/7 of it, ImageNet's mean and deviation. Written: OUT/fashion_targets.json.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from PIL import Image
from sklearn.linear_model import LogisticRegression

MEAN = np.array([0.485, 0.456, 0.406], np.float32).reshape(3, 1, 1)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32).reshape(3, 1, 1)
GRID = [0.001, 0.01, 0.1, 1.0, 10.0, 100.0]


def features_of(path):
    """A function from pictures [n, 28, 28] u8 to what the last linear layer reads, [n, features]."""
    model = onnx.load(path)
    last = [n for n in model.graph.node if n.op_type in ("Gemm", "MatMul")][-1]
    model.graph.output.append(onnx.helper.make_tensor_value_info(last.input[0], onnx.TensorProto.FLOAT, None))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    shape = session.get_inputs()[0].shape

    def run(pictures):
        rows = []
        for p in pictures:
            side = round(shape[2] / 0.875)
            image = Image.fromarray(p).convert("RGB").resize((side, side), Image.BILINEAR)
            margin = (side - shape[2]) // 2
            image = image.crop((margin, margin, margin + shape[2], margin + shape[2]))
            x = (np.asarray(image, np.float32).transpose(2, 0, 1) / 255 - MEAN) / DEVIATION
            rows.append(session.run([last.input[0]], {session.get_inputs()[0].name: x[None]})[0].reshape(-1))
        return np.stack(rows)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent.parent / "reference")
    args = parser.parse_args()
    features = features_of(args.model)
    runs = []
    for test_file in sorted(args.folder.glob("fashion_seed*_test1000.npz")):
        test = np.load(test_file)
        test_x = features(test["x"])
        for shots in (5, 20):
            train = np.load(str(test_file).replace("test1000", f"{shots}perclass"))
            train_x = features(train["x"])

            def accuracy(c):
                probe = LogisticRegression(C=c, max_iter=5000).fit(train_x, train["y"])
                return float((probe.predict(test_x) == test["y"]).mean())

            accuracies = {c: accuracy(c) for c in GRID}
            run = dict(split=test_file.stem.split("_")[1], shots=shots, probe=accuracies[1.0], best_probe=max(accuracies.values()))
            runs.append(run)
            print(run, flush=True)
    target = args.out / "fashion_targets.json"
    target.write_text(json.dumps(dict(model=args.model.name, n_test=1000, runs=runs), indent=1) + "\n")


if __name__ == "__main__":
    main()
