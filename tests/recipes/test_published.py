"""The shipped recipes against the authors' code, setting by setting; file and line of theirs beside each value."""

import ast
import math
from typing import Any

import pytest

from selfsup.augment import presets
from selfsup.config.recipe_files import load_recipe, recipe_names, recipes_folder
from selfsup.optim.schedules import Horizon
from selfsup.pretraining import Run
from tests.support.places import ROOT

# simclr: google-research/simclr 383d414; moco: facebookresearch/moco, branch colab-notebook;
# supcon: HobbitLong/SupContrast 66a8fe5; xbm: MalongTech/research-xbm 223ecdc; ms: MalongTech/research-ms-loss 8db6c9c;
# spcl: yxgeee/SpCL 01a486e.
SIMCLR_VIEW = {
    "augment.views.0.crop_sampler": "tensorflow",  # simclr data_util.py:285
    "augment.views.0.crop_attempts": 100,  # simclr data_util.py:323
    "augment.views.0.crop_scale": (0.08, 1.0),  # simclr data_util.py:322
    "augment.views.0.crop_ratio": (3 / 4, 4 / 3),  # simclr data_util.py:321
    "augment.views.0.interpolation": "bicubic_aliased",  # simclr tf2/data_util.py:319
    "test_interpolation": "bicubic_aliased",  # simclr tf2/data_util.py:240
}
PUBLISHED: dict[str, dict[str, Any]] = {
    "simclr_imagenet": {
        **SIMCLR_VIEW,
        "augment.views.0.jitter.additive_brightness": True,  # simclr data_util.py:47-48, the first version
        "augment.views.0.blur.kernel_size": 23,  # simclr data_util.py:343-344, 413
        "test_fraction": 0.875,  # simclr data_util.py, CROP_PROPORTION
    },
    "simclr_v2_imagenet": {
        **SIMCLR_VIEW,
        "augment.views.0.jitter.additive_brightness": False,  # simclr data_util.py:43-46
        "test_fraction": 0.875,
    },
    "simclr_cifar10": {
        **SIMCLR_VIEW,
        "augment.views.0.jitter.additive_brightness": False,
        "augment.views.0.jitter.brightness": 0.4,  # simclr README.md:83, strength 0.5
        "augment.views.0.blur.probability": 0.0,  # simclr README.md:83
        "batch_size": 512,  # simclr README.md:80
        "method.temperature": 0.5,  # simclr README.md:81
        "optimizer.learning_rate": 1.0,  # simclr README.md:81
        "optimizer.weight_decay": 1e-4,  # simclr README.md:81
        "test_fraction": 1.0,  # simclr data.py: no test crop at 32 pixels
    },
    "moco_v2_cifar10": {
        "schedule.first_epoch": 1,  # moco colab/moco_cifar10_demo.ipynb: range(epoch_start, args.epochs + 1), from 1
        "knn_bank": 50_000,  # the same: all training images are the bank
        "knn_queries": 10_000,
        "knn_k": 200,
        "knn_temperature": 0.1,
    },
    "moco_v3_imagenet": {  # CONFIG.md, "ResNet-50, 1000-epoch pre-training"; main_moco.py where no flag is given
        "batch_size": 4096,
        "epochs": 1000,
        "optimizer.learning_rate": 0.3,
        "optimizer.weight_decay": 1.5e-6,
        "optimizer.rate_in_buffer": False,  # optimizer.py
        "optimizer.exclude": (),
        "schedule.warmup_epochs": 10,
        "method.momentum": 0.996,
        "method.temperature": 1.0,
        "method.head.hidden_layers": 1,  # builder.py, MoCo_ResNet
        "method.predictor.batch_norm": "hidden",
        "encoder.zero_init_residual": True,
        "augment.views.0.crop_scale": (0.2, 1.0),
        "augment.views.0.blur.probability": 1.0,
        "augment.views.1.blur.probability": 0.1,
        "augment.views.1.solarize": 0.2,
    },
    "moco_v3_vit_imagenet": {  # CONFIG.md, "ViT-Small, 1-node (8-GPU), 1024-batch" and "ViT-S, batch 4096" alike
        "batch_size": 4096,
        "epochs": 300,
        "optimizer.learning_rate": 1.5e-4,
        "optimizer.weight_decay": 0.1,
        "optimizer.decay_norm_and_bias": True,  # all parameters alike
        "schedule.warmup_epochs": 40,
        "method.momentum": 0.99,
        "method.temperature": 0.2,
        "method.head.hidden_layers": 2,  # builder.py, MoCo_ViT
        "method.predictor.batch_norm": "all",
        "encoder.num_heads": 12,  # vits.py, vit_small
        "augment.views.0.crop_scale": (0.08, 1.0),
        "augment.views.0.jitter.saturation": 0.2,
    },
    "moco_cifar10_symmetric": {"schedule.first_epoch": 1, "knn_bank": 50_000, "knn_queries": 10_000},
    "xbm_cars": {
        "test_fraction": 224 / 256,  # xbm defaults.py:82, 84
        "augment.views.0.crop_scale": (0.2, 1.0),  # xbm defaults.py:83
        "augment.views.0.size": 224,  # xbm defaults.py:84
        "optimizer.learning_rate": 1e-4,  # xbm sample_config.yaml:30
        "optimizer.weight_decay": 5e-4,  # xbm sample_config.yaml:31
        "optimizer.decay_norm_and_bias": True,  # xbm solver/build.py:8, all parameters alike
        "batch_size": 64,  # xbm sample_config.yaml:36
        "sampling.per_class": 4,  # xbm sample_config.yaml:39
        "method.memory_start": 1000,  # xbm sample_config.yaml:48
    },
    "metric_cars": {
        "test_fraction": 227 / 256,  # ms defaults.py:71, 73
        "augment.views.0.crop_scale": (0.16, 1.0),  # ms defaults.py:72
        "augment.views.0.size": 227,  # ms defaults.py:73
        "method.loss.alpha": 2.0,  # ms defaults.py:41
        "method.loss.beta": 40.0,  # ms defaults.py:42
        "method.loss.threshold": 0.5,  # ms multi_similarity_loss.py:18
        "method.loss.epsilon": 0.1,  # ms multi_similarity_loss.py:19
        "method.output_dim": 512,  # ms defaults.py:28
        "optimizer.learning_rate": 3e-5,  # ms example_resnet50.yaml:21
        "optimizer.weight_decay": 5e-4,  # ms example_resnet50.yaml:23
        "optimizer.decay_norm_and_bias": True,  # ms solver/build.py:8-17
        "batch_size": 80,  # ms example_resnet50.yaml:28
        "sampling.per_class": 5,  # ms example_resnet50.yaml:31
    },
    "spcl_wildlife": {
        "test_interpolation": "bicubic",  # spcl spcl_train_usl.py:74
        "augment.views.0.interpolation": "bicubic",  # spcl spcl_train_usl.py:47
        "augment.views.0.erase.probability": 0.5,  # spcl spcl_train_usl.py:53
        "augment.views.0.erase.area": (0.02, 0.4),  # spcl transforms.py:64
        "augment.views.0.erase.aspect": (0.3, 1 / 0.3),  # spcl transforms.py:80
        "optimizer.learning_rate": 3.5e-4,  # spcl spcl_train_usl.py:300
        "optimizer.weight_decay": 5e-4,  # spcl spcl_train_usl.py:302
        "optimizer.decay_norm_and_bias": True,  # spcl spcl_train_usl.py:144-145
        "batch_size": 64,  # spcl spcl_train_usl.py:274
        "sampling.steps_per_epoch": 400,  # spcl spcl_train_usl.py:304
        "epochs": 50,  # spcl spcl_train_usl.py:303
    },
    "spcl_wildlife_uda": {"test_interpolation": "bicubic", "optimizer.decay_norm_and_bias": True},
}


# What the authors' code does otherwise, and a recipe or a document has to say, in words of it.
OWN_KEYS = "an image's own older keys in the queue are no negatives"
FIRST_CONVOLUTION = "the first convolution starts as the others do, there as torch starts a convolution"
KNN_OF_THE_DEMO = "with k=200, T=0.1, on the 128 outputs of the head against all training images"
SAID = {
    "recipes/moco_v1_imagenet.py": (OWN_KEYS,),
    "recipes/moco_v2_imagenet.py": (OWN_KEYS,),
    "recipes/mochi_imagenet.py": (OWN_KEYS,),
    "recipes/mochi_imagenet100.py": (OWN_KEYS,),
    "recipes/moco_v2_cifar10.py": (OWN_KEYS, FIRST_CONVOLUTION, KNN_OF_THE_DEMO),
    "recipes/moco_cifar10_symmetric.py": (OWN_KEYS, FIRST_CONVOLUTION, KNN_OF_THE_DEMO),
    "recipes/instdisc_imagenet.py": (
        "k = 200 and T = 0.07, of the 128 outputs of the head",
        "smaller batch",
        "rows of the bank",
    ),
    "recipes/instdisc_cifar10.py": (
        "there as torch starts them",
        "smaller batch of an epoch is dropped, there it is kept",
    ),
    "recipes/supcon_cifar10.py": ("48 steps an epoch, there it is kept, which makes 49", "the best over its epochs"),
    "recipes/simclr_imagenet.py": ("at depth 50 not in its shortcuts",),
    "recipes/simclr_cifar10.py": ("first block of every stage", "variance scaling", "by SGD, grayscale 0.1", "k = 10"),
    "recipes/simclr_v2_imagenet.py": ("74.6 % for this network", "71.7 %", "without the memory resnet-50 has 71.1 %"),
    "recipes/xbm_cars.py": ("no relu after the first batch norm", "global max pooling", "plateaus", "its head starts"),
    "recipes/metric_cars.py": ("bn-inception", "its head starts", "imagenet weights"),
    "recipes/spcl_wildlife.py": (
        "there by 10",
        "16 images of each of four gpus",
        "norms and biases",
        "best over epochs",
    ),
    "selfsup/augment/presets.py": (
        "contrast about the mean of each channel",
        "a box that fits is sought in 10 attempts, there in 100",
    ),
    "selfsup/methods/pair_losses.py": ("40 in the published code",),
    "docs/protocols.md": (
        "supcontrast's, barlow twins' and spcl's are the best over epochs",
        "k = 200, t = 0.07, the 128 outputs of the head, and as neighbours the rows of the bank",
        "those of dkobak/simclr-cifar10 are without weights, with k = 10",
        "the code for tensorflow 1 leaves it as it is",
        "the published batch norm is over each gpu's part",
        "12 or 13 of every class for 1 %, 128 or 129 for 10 %",
        "a demonstration of ten steps",
        "without τ² all gradients are a hundredfold",
    ),
}


def setting(recipe: Run, path: str) -> Any:
    value: Any = recipe
    for name in path.split("."):
        value = value[int(name)] if name.isdigit() else getattr(value, name)
    return value


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_recipes_have_the_published_settings(name: str) -> None:
    recipe = load_recipe(name)
    assert {path: setting(recipe, path) for path in PUBLISHED[name]} == PUBLISHED[name]


def test_a_recipe_that_says_published_lists_its_departures() -> None:
    said = []
    for name in recipe_names():
        text = ast.get_docstring(ast.parse((recipes_folder() / f"{name}.py").read_text())) or ""
        title = text.partition("\n")[0]
        if "published" in title:
            said.append(name)
            assert "Departure" in text, f"{name} calls itself published and does not say where it departs"
    assert len(said) >= 9


@pytest.mark.parametrize("name", SAID)
def test_where_the_published_code_differs_it_is_said(name: str) -> None:
    root = recipes_folder() if name.startswith("recipes/") else ROOT
    words = " ".join((root / name.removeprefix("recipes/")).read_text().replace("#", " ").lower().split())
    assert not [told for told in SAID[name] if told.lower() not in words]


def test_multi_similarity_takes_three_thousand_steps_with_two_drops() -> None:
    recipe = load_recipe("metric_cars")
    steps = recipe.sampling.steps_per_epoch
    horizon = Horizon(steps * recipe.batch_size, recipe.batch_size, recipe.epochs)
    assert horizon.total_steps == 3000  # ms example_resnet50.yaml:18
    factors = [recipe.schedule(step, horizon) for step in (0, 1199, 1200, 2399, 2400, 2999)]  # :19
    assert factors == pytest.approx([1, 1, 0.1, 0.1, 0.01, 0.01])


def test_supcon_warms_up_from_a_rate_of_a_hundredth() -> None:
    """main_supcon.py:111-116 and util.py:68-75; 48 whole batches of 1,024 an epoch."""
    recipe = load_recipe("supcon_cifar10")
    horizon, peak = Horizon(50_000, recipe.batch_size, recipe.epochs), recipe.optimizer.peak(recipe.batch_size)
    least = 0.5 * 0.1**3
    end = least + (0.5 - least) * (1 + math.cos(math.pi * 10 / 1000)) / 2
    rates = [peak * recipe.schedule(step, horizon) for step in (0, 240, 480)]
    eleventh = least + (0.5 - least) * (1 + math.cos(math.pi * 11 / 1000)) / 2
    assert rates == pytest.approx([0.01, (0.01 + end) / 2, eleventh])


def test_the_last_epoch_of_the_demo_has_rate_zero() -> None:
    horizon = Horizon(50_000, 512, 200)
    for name in ("moco_v2_cifar10", "moco_cifar10_symmetric"):
        schedule = load_recipe(name).schedule
        assert schedule(0, horizon) == pytest.approx(0.5 * (1 + math.cos(math.pi / 200)))
        assert schedule(horizon.total_steps - 1, horizon) == 0


def test_stored_runs_mean_what_they_meant() -> None:
    """The classes' defaults are the old behaviour; it is the presets that name the published one."""
    view = presets.moco_v2().views[0]
    assert (view.crop_sampler, view.interpolation, view.jitter.additive_brightness) == (
        "torchvision",
        "bilinear",
        False,
    )
    assert Run.__dataclass_fields__["test_interpolation"].default == "bilinear"
