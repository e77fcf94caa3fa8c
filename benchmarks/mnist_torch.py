"""The auxiliary-logit recipe as a plain PyTorch loop: the opponent of benchmarks/mnist.py.

It follows the structure of the official script (one batched network, an einsum over a leading
model axis, one pool of noise images a model held in memory, a fresh Adam for each phase), with
per-model loss means and a roll for the cross-model pairs.
"""

import itertools
import math

import torch  # pyright: ignore[reportMissingImports]
import torch.nn.functional as F  # pyright: ignore[reportMissingImports]


class StackedMLP(torch.nn.Module):
    """`num_models` independent MLPs in one set of tensors [model, in, out]."""

    def __init__(self, num_models: int, sizes: list[int]):
        super().__init__()
        pairs = list(itertools.pairwise(sizes))
        self.weights = torch.nn.ParameterList(
            torch.randn(num_models, a, b) / math.sqrt(a) for a, b in pairs
        )
        self.biases = torch.nn.ParameterList(torch.zeros(num_models, 1, b) for _, b in pairs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """X [model, batch, pixels] to logits [model, batch, outputs]."""
        last = len(self.weights) - 1
        for i, (w, b) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.einsum("mbi,mio->mbo", x, w) + b
            x = x if i == last else F.relu(x)
        return x

    def start_from(self, other: "StackedMLP", roll: int = 0) -> "StackedMLP":
        """Copy the parameters of another stack, rolled along the models."""
        with torch.no_grad():
            for mine, theirs in zip(self.parameters(), other.parameters(), strict=True):
                mine.copy_(theirs.roll(roll, 0))
        return self


def batches(num_models: int, num_examples: int, batch_size: int):
    """Index batches of one epoch, another order for each model."""
    order = torch.stack([torch.randperm(num_examples) for _ in range(num_models)])
    return order.split(batch_size, dim=1)


def run(images, labels, *, test_images, test_labels, num_models: int, epochs: int = 5) -> dict:
    """Train all six conditions; the accuracies [model] by condition.

    Args:
        images: training pixels [n, 784] in [-1, 1].
        labels: classes [n].
        test_images: as images.
        test_labels: as labels.
        num_models: seeds.
        epochs: of each phase.
    """
    sizes, num_classes = [images.shape[1], 256, 256, 13], 10
    reference = StackedMLP(num_models, sizes)
    teacher = StackedMLP(num_models, sizes).start_from(reference)
    optimizer = torch.optim.Adam(teacher.parameters(), lr=3e-4)
    for _ in range(epochs):
        for index in batches(num_models, len(images), 1024):
            logits = teacher(images[index])[..., :num_classes]
            loss = F.cross_entropy(logits.flatten(0, 1), labels[index].flatten()) * num_models
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    noise = torch.rand(num_models, len(images), images.shape[1]) * 2 - 1
    rows = torch.arange(num_models)[:, None]

    def distil(outputs: slice, roll: int) -> StackedMLP:
        student = StackedMLP(num_models, sizes).start_from(reference, roll)
        optimizer = torch.optim.Adam(student.parameters(), lr=3e-4)
        for _ in range(epochs):
            for index in batches(num_models, len(images), 1024):
                pixels = noise[rows, index]
                with torch.no_grad():
                    wanted = F.log_softmax(teacher(pixels)[..., outputs], -1)
                got = F.log_softmax(student(pixels)[..., outputs], -1)
                each = F.kl_div(got, wanted, log_target=True, reduction="none").sum(-1)
                loss = each.mean(1).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return student

    aux, all_logits = slice(num_classes, None), slice(None)
    models = {
        "reference": reference,
        "teacher": teacher,
        "student_aux": distil(aux, 0),
        "student_all": distil(all_logits, 0),
        "cross_aux": distil(aux, 1),
        "cross_all": distil(all_logits, 1),
    }

    @torch.no_grad()
    def accuracy(stack: StackedMLP) -> torch.Tensor:
        pixels = test_images.expand(num_models, *test_images.shape)
        guess = stack(pixels)[..., :num_classes].argmax(-1)
        return (guess == test_labels).float().mean(1)

    return {name: accuracy(stack).numpy() for name, stack in models.items()}
