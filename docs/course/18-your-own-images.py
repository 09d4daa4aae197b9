# %% [markdown]
# # 18. Bring your own images
#
# A folder of images is all that is needed: PNG, JPEG and other formats, grey or colour, with or without class folders.
# nelbo reads every image and tells you what it found before anything is trained.
# Nothing is converted silently: images of different sizes are an error, with the option that mends it.
# A tenth of the images is held out for `val` and a tenth for `test`, by the content of each image.
# So renaming or adding files does not move an image from one split to another, and copies stay together.
# Training sees only `train`; the score is measured on `test`.
# The bound of a single image says how surprising it is for the model.
# Sorted by the bound, the odd ones of a folder come to the end: damaged, mislabelled, or simply different.
# But a large bound does not always mean odd: an image with much detail costs more than an empty one.
# So compare with the distribution of the bound over images that you know to be good.

# %% [markdown]
# ## The equations
#
# The rule of this chapter is a hypothesis test: an image $x$ is odd if its bound lies above the bounds of nearly all test images.
# The bound, $-\ln p(x) \le \mathrm{bound}(x)$, is the sum of the three terms of chapter 8, and
#
# $$\text{bits/dim}(x) = \frac{\mathrm{bound}(x)}{D\ln 2} .$$
#
# (Nalisnick et al. 2019 show how the likelihood alone can fail as a test: images with less detail look less odd.)

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from PIL import Image, ImageDraw

import nelbo
from nelbo.course import check, turn
from nelbo.report.pictures import beside, grid
from nelbo.units import bits_per_dim

# %% [markdown]
# ## A folder of images
#
# Yours may be photos. Here we draw 600 small pictures of discs, squares and triangles, and write them as PNG files into three class
# folders. Replace `folder` by a path of yours to use your own; add `size="32x32", fit="crop"` to `nelbo.train` if they differ in size.

# %%
SIDE = 16
folder = Path(tempfile.mkdtemp()) / "shapes"
random = np.random.default_rng(0)


def draw_shape(kind: str) -> Image.Image:
    """A grey picture of one shape, at a random place, of random size and brightness."""
    picture = Image.new("L", (4 * SIDE, 4 * SIDE), 0)
    pen, light = ImageDraw.Draw(picture), int(random.integers(160, 256))
    r = int(random.integers(12, 21))
    cx, cy = random.integers(r, 4 * SIDE - r, 2).tolist()
    if kind == "disc":
        pen.ellipse((cx - r, cy - r, cx + r, cy + r), fill=light)
    elif kind == "square":
        pen.rectangle((cx - r, cy - r, cx + r, cy + r), fill=light)
    elif kind == "triangle":
        pen.polygon([(cx, cy - r), (cx - r, cy + r), (cx + r, cy + r)], fill=light)
    else:
        pen.line((cx - r, cy - r, cx + r, cy + r), fill=light, width=7)
        pen.line((cx - r, cy + r, cx + r, cy - r), fill=light, width=7)
    return picture.resize((SIDE, SIDE), Image.Resampling.BOX)


for kind in ("disc", "square", "triangle"):
    (folder / kind).mkdir(parents=True)
    for k in range(200):
        draw_shape(kind).save(folder / kind / f"{k:03d}.png")

for name, value in nelbo.info(folder).items():
    print(f"{name:22s}{value}")

# %% [markdown]
# ## Train, look, score
#
# `nelbo.train` is the command `nelbo train` with the same names. 600 steps take about half a minute; for photos plan an hour.

# %%
# Change this and run again: the family (ddpm, vdm, vae, hvae) and the number of steps.
FAMILY, STEPS = "ddpm", 600

run = nelbo.train(FAMILY, folder, steps=STEPS, device="cpu", out=folder.parent / "run")
print(run.score())

# %%
images = run.dataset.split("test")
beside(
    grid(images[:36], run.dataset.levels), "test images", grid(run.sample(36, steps=50), run.dataset.levels), "samples"
)

# %% [markdown]
# ## Which images are surprising?
#
# The bound of every test image, in bits/dim. Above: the cheapest and the most expensive ones.

# %%
model = run.model(device="cpu")
assert isinstance(model, nelbo.Diffusion | nelbo.VAE | nelbo.HVAE)


def scores(images: torch.Tensor) -> torch.Tensor:
    """The bound of each image in bits/dim, from four estimates."""
    return torch.tensor(
        [bits_per_dim(nats, run.dataset.dims) for nats in model.bound(images, replicates=4).total.tolist()]
    )


known = scores(images)


def draw_sorted(shown: int) -> None:
    """The ends of the list, and the distribution."""
    order = known.argsort()
    figure = plt.figure(figsize=(9, 3.6), layout="constrained")
    above, below = figure.subfigures(2, 1, height_ratios=(1, 2))
    for ax, place in zip(above.subplots(1, 2 * shown), [*order[:shown], *order[-shown:]], strict=True):
        ax.imshow(images[place, 0], cmap="gray", vmin=0, vmax=run.dataset.levels - 1)
        ax.set_title(f"{known[place]:.2f}", fontsize=8)
        ax.set_axis_off()
    ax = below.subplots()
    ax.hist(known, bins=30)
    ax.set(xlabel="bits/dim of a test image", ylabel="images")


# Change this and run again: how many of each end are shown.
turn(draw_sorted, shown=(6, 2, 10))

# %% [markdown]
# ## Exercise
#
# Sixteen new images arrive. One of them is neither a disc, nor a square, nor a triangle.
# Find it by its bound: which index, from 0 to 15, has it in `inbox`? (You may look at the picture afterwards.)

# %%
odd = int(np.random.default_rng(7).integers(16))
kinds = ["cross" if k == odd else ("disc", "square", "triangle")[k % 3] for k in range(16)]
inbox = torch.stack([torch.from_numpy(np.array(draw_shape(kind)))[None] for kind in kinds])

# %% tags=["exercise"]
index = None

# %% tags=["check"]
check(
    index,
    int(scores(inbox).argmax()),
    "scores(inbox) has the bits/dim of each image; the odd one is the most expensive. Count from 0.",
    rtol=0,
    atol=0,
)

# %% [markdown]
# ## Where this goes
#
# `nelbo score RUN --per-image FILE.csv --sort` writes the list for a whole folder with the paths, `--worst 25` a page of
# the most expensive images with the bits of their pixels and a threshold, and `nelbo score RUN --data OTHER --against
# test` measures how well the bound separates two folders (AUROC, with its error).
