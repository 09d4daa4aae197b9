"""The --help texts of all commands but ``train``; ``nelbo --help`` lists their first lines."""

COMMANDS = {
    "sample": """Sample images from a run. Prints their path.

```
nelbo sample runs/mnist -n 100 --out digits.png
nelbo sample runs/mnist -n 16 --sampler ancestral --out denoising.gif
nelbo sample runs/labelled --label 7 --guidance 2
```
""",
    "edit": """Edit images with a run: fill holes, upscale, vary, invert, interpolate. Prints the path of the result.

```
nelbo edit runs/mnist inpaint seven.png --mask hole.png -n 8 --out filled.png
nelbo edit runs/mnist upscale small.png --factor 4
nelbo edit runs/mnist vary seven.png --strength 0.3
nelbo edit runs/mnist invert seven.png --out latent.npz
nelbo edit runs/mnist interpolate seven.png nine.png --out way.gif
nelbo edit runs/labelled vary seven.png --strength 0.5 --label 3
nelbo edit runs/labelled invert seven.png --source-label 7 --label 3
```

A ddpm or vdm has all verbs; a vae or hvae has inpaint and interpolate. With --label, a run of labels draws the result
from this class. docs/editing.md says how far each method is
from the exact conditional law.
""",
    "score": """Measure a run on held-out images: the negative ELBO in bits/dim, term by term, with its errors.

```
nelbo score runs/mnist
nelbo score runs/mnist --split val --limit 1000 --timesteps 32 --json
nelbo score runs/mnist --data photos/ --against test
nelbo score runs/mnist --data photos/ --split all --worst 25 --out strange.html
```
""",
    "classify": """Classify images by the bound of each label, with errors; 'undecided' where two labels are too close.

```
nelbo classify runs/labelled
nelbo classify runs/labelled --data photos/ --split all --per-image labels.csv
nelbo classify runs/labelled --limit 1000 --evaluations 64 --json
```

RUN was trained with --labels. It prints the share that is right, the confusions, and how good the stated
probabilities are.
""",
    "evaluate": """Compare a run's samples with held-out images: FD and KD, precision and recall, classes, copies.

```
nelbo evaluate runs/mnist
nelbo evaluate runs/mnist --samples 500 --neighbours copies.png
```
""",
    "features": """Train the features for 'evaluate': a small classifier of the data's labels.

```
nelbo features --data mnist
```
""",
    "compare": """Compare runs on one page: bits/dim and terms, samples from the same seeds, training curves.

```
nelbo compare runs/vae runs/ddpm runs/vdm --out report
```
""",
    "info": """Describe a run, a data set or a compressed file, with all its settings.

```
nelbo info runs/mnist
nelbo info photos.nelbo
nelbo info photos/ --size 64x48 --fit crop
```
""",
    "compress": """Compress images with a run, without loss. Prints the path of the file.

```
nelbo compress runs/mnist photos/ --out photos.nelbo
nelbo compress runs/mnist mnist --split test --steps 96 --bounds --out test.nelbo
nelbo compress runs/vae one.png two.png --each --out two.nelbo
nelbo info photos.nelbo
nelbo decompress runs/mnist photos.nelbo --out again/
```

IMAGES are files and folders of images, or one data set. Decoding needs the same weights. Every image is decoded again
before it is written; those that the run has no levels for, of another size for example, are stored without it. Nothing
of the originals is changed.
""",
    "decompress": """Decompress a file of 'compress': the same pixels, names and labels. Prints the path of the result.

```
nelbo decompress runs/mnist photos.nelbo --out photos/
nelbo decompress runs/mnist test.nelbo --out test.npz
nelbo decompress runs/vae two.nelbo --indices 1 --out one/
```

Of a damaged file the images that are whole are written, a line says what is lost, and the exit code is 1.
""",
    "distill": """Train a student of a ddpm or vdm that samples in a few steps. Prints its run.

```
nelbo distill runs/mnist --out runs/mnist-4-steps
nelbo distill runs/mnist --steps 1 --minutes 20
nelbo sample runs/mnist-4-steps -n 100
```

It uses consistency distillation on the run's own data. The student maps noise to images, so it has no bound.
""",
    "studio": """Open a local page to look at data and runs, train, draw, edit and compare, in the browser.

```
nelbo studio runs/
nelbo studio runs/ photos/
nelbo studio runs/ --port 8000
nelbo studio runs/ --host 0.0.0.0
```

It reads and writes only in the folders that are named, and sends nothing to other hosts. Without --host only this
machine can open the page; another host needs the token that is printed. Trainings that it starts are processes of
their own, and go on when it ends.
""",
    "import": """Convert a diffusers folder (UNet2DModel and scheduler, JSON and safetensors) to a run. Prints the run.

```
nelbo import ddpm-cifar10-32/ runs/theirs --data cifar10
nelbo score runs/theirs --limit 100
```

Outputs, β and predictions equal those of diffusers. Pickled weights are not read.
""",
    "export": """Write a run as a diffusers folder, which DDPMPipeline.from_pretrained loads. Prints the folder.

```
nelbo export runs/theirs ddpm-fine-tuned/
```
""",
}
