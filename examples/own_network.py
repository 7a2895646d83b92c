"""A detector of one's own, compressed with its own training loop: python examples/own_network.py [BUDGET] [OUT]."""

import json
import sys

import torch
from torch import nn

import compressor


class Detector(nn.Module):
    """Finds the bright rectangle of an image (N, 1, 48, 48): its corners as shares of a side, and if it is wide."""

    def __init__(self):
        super().__init__()
        layers = [nn.Conv2d(1, 32, 3, 2, 1), nn.BatchNorm2d(32), nn.ReLU()]
        layers += [nn.Conv2d(32, 64, 3, 2, 1), nn.BatchNorm2d(64), nn.ReLU()]
        layers += [nn.Conv2d(64, 128, 3, 2, 1), nn.BatchNorm2d(128), nn.ReLU(), nn.Flatten()]
        self.backbone = nn.Sequential(*layers, nn.Linear(128 * 6 * 6, 64), nn.ReLU())
        self.box, self.wide = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(self, image):
        features = self.backbone(image)
        return {"box": torch.sigmoid(self.box(features)), "wide": self.wide(features)}


def rectangles(count, seed):
    corners = torch.randint(0, 48, (count, 2, 2), generator=torch.Generator().manual_seed(seed)).sort(1).values
    inside = ((torch.arange(48) >= corners[:, 0, :, None]) & (torch.arange(48) <= corners[:, 1, :, None])).float()
    sides = corners[:, 1] - corners[:, 0]
    return torch.einsum("nx,ny->nyx", *inside.unbind(1))[:, None], corners.flatten(1) / 48, sides[:, :1] > sides[:, 1:]


def train(model, data, epochs, device, on_step):
    images, boxes, wide = (part.to(device) for part in data["train"])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.003)
    for chosen in (chosen for _ in range(epochs) for chosen in torch.randperm(len(images)).split(64)):
        found = model(images[chosen])
        loss = nn.functional.binary_cross_entropy_with_logits(found["wide"], wide[chosen].float())
        loss = 0.1 * loss + nn.functional.l1_loss(found["box"], boxes[chosen])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        on_step(loss)


def closeness(model, data, device):  # 1: every corner is where it should be
    images, boxes, _ = (part.to(device) for part in data["test"])
    return float(1 - (model(images)["box"] - boxes).abs().mean())


if __name__ == "__main__":
    budget, out = sys.argv[1:] or ('{"latency": "0.5x", "batch": 8, "threads": 1}', "runs/detector")
    detector, data = Detector(), {"train": rectangles(1000, 0), "test": rectangles(300, 1)}
    train(detector, data, 8, "cpu", lambda loss: None)
    given = {"data": data, "train": train, "evaluate": closeness, "finetune": {"epochs": 5}, "baselines": ["reference"]}
    result = compressor.compress(detector, data["test"][0][:2], budget=json.loads(budget), out=out, **given)
    before = result.report["baseline"]["reference"]["metric"]["onnx"]
    print(f"closeness {result.report['metric']['onnx']:.3f}, before {before:.3f}: {result.onnx_path}")
