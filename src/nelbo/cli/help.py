"""What the --help of every command but ``train`` says above its options; ``nelbo --help`` lists the first lines."""

COMMANDS = {
    "sample": """Draw images from a run. Prints where they are.

```
nelbo sample runs/mnist -n 100 --out digits.png
nelbo sample runs/mnist -n 16 --sampler ancestral --out denoising.gif
```
""",
    "score": """Measure a run on held-out images: the negative ELBO in bits/dim, term by term, with its errors.

```
nelbo score runs/mnist
nelbo score runs/mnist --split val --limit 1000 --timesteps 32 --json
nelbo score runs/mnist --data photos/ --against test
```
""",
    "evaluate": """Measure a run's samples beside held-out images: FD and KD, precision and recall, classes, copies.

```
nelbo evaluate runs/mnist
nelbo evaluate runs/mnist --samples 500 --neighbours copies.png
```
""",
    "features": """Train the features in which 'evaluate' measures: a small classifier of the data's labels.

```
nelbo features --data mnist
```
""",
    "compare": """Put runs side by side on one page: bits/dim and terms, samples from the same seeds, training curves.

```
nelbo compare runs/vae runs/ddpm runs/vdm --out report
```
""",
    "info": """Say what a run or a data set is, and everything that decided it.

```
nelbo info runs/mnist
nelbo info photos/ --size 64x48 --fit crop
```
""",
    "distill": """Train a student that draws in a few steps what a ddpm or vdm draws in many. Prints its run.

```
nelbo distill runs/mnist --out runs/mnist-4-steps
nelbo distill runs/mnist --steps 1 --minutes 20
nelbo sample runs/mnist-4-steps -n 100
```

By consistency distillation, on the run's own data. The student is a map from noise to images, so it has no bound.
""",
    "import": """Make a run of a diffusers folder, a UNet2DModel and its scheduler in JSON and safetensors. Prints it.

```
nelbo import ddpm-cifar10-32/ runs/theirs --data cifar10
nelbo score runs/theirs --limit 100
```

Outputs, β and predictions are those of diffusers; pickled weights are not opened.
""",
    "export": """Write a run as a diffusers folder, which DDPMPipeline.from_pretrained loads. Prints the folder.

```
nelbo export runs/theirs ddpm-fine-tuned/
```
""",
}
