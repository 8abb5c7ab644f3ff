import copy
import dataclasses
import sys

import pytest
import torch
from conftest import K, built, generator, shape_of, small_dt, states_equal
from torch import nn

from noprop_helpers import NoPropError
from noprop_helpers.blocks import LinearReadout, RadialReadout
from noprop_helpers.embeddings import prototypes
from noprop_helpers.features import Upright
from noprop_helpers.recipes import EMBEDDINGS, RECIPES, Shape, embedding_start, recipe_named
from noprop_helpers.schedules import alpha_bar_from_alphas, cosine_alpha_bar, linear_alphas
from noprop_helpers.settings import Settings
from noprop_helpers.training import accuracy, fit

PAPER = [name for name in RECIPES if name.startswith("paper-")]


def needs_torchdiffeq(name):
    if name == "paper-adjoint":
        pytest.importorskip("torchdiffeq")


def order_of(name):
    return "solved" if name == "closed_form" else "together" if name in ("published", "shared", "local") else "layer"


# --- What all have in common ---


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_build_prepare_and_train_on_small_and_coloured_images(name):
    needs_torchdiffeq(name)
    images, labels = torch.rand(80, 3, 9, 12, generator=generator()), torch.arange(80) % 3
    model = built(name, images, labels, 3, num_steps=2)
    assert model.layer_local == (name not in ("shared", "paper-backprop", "paper-adjoint"))
    own = recipe_named(name).settings(shape_of(images, 3))
    assert own.order == order_of(name)
    losses = fit(model, images, labels, dataclasses.replace(own, epochs=1, precision="float32"))
    assert losses.isfinite().all() and losses.shape == (1, model.num_layers)
    assert model.predict(images[:4], generator()).shape == (4,)


@pytest.mark.parametrize("name", RECIPES)
def test_recipes_are_plain_values(name):
    recipe = RECIPES[name]()
    assert recipe == recipe_named(name) == dataclasses.replace(recipe) and hash(recipe) == hash(recipe_named(name))
    assert RECIPES[name](**dataclasses.asdict(recipe)) == recipe
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.num_steps = 3
    assert dataclasses.replace(recipe, num_steps=7).num_steps == 7


@pytest.mark.whole
@pytest.mark.parametrize("name", RECIPES)
def test_weights_are_drawn_by_build_and_only_there(name, few_digits):
    """From torch's global random state: the same seed, the same weights. ``prepare`` computes from the training split."""
    needs_torchdiffeq(name)
    images, labels, recipe = few_digits.train_images, few_digits.train_labels, RECIPES[name](num_steps=2)

    def build(seed):
        torch.manual_seed(seed)
        return recipe.build(shape_of(images))

    first, again, other = build(1), build(1), build(2)
    assert states_equal(first, again) and not states_equal(first, other)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    recipe.prepare(first, images, labels, generator(5))
    recipe.prepare(again, images, labels, generator(5))
    assert torch.equal(torch.rand(1), expected) and states_equal(first, again)
    trained = [dict(model.named_parameters()) for model in (first, build(1))]
    moved = {key for key, value in trained[0].items() if not torch.equal(value, trained[1][key])}
    # The one exception: a read-out that starts as nearest row of embeddings which are not known before.
    assert moved == ({"net.readout.weight", "net.readout.bias"} if name == "paper-backprop" else set())


@pytest.mark.parametrize("name", sorted(set(RECIPES) - {"published", "local", "closed_form", "residual"}))
def test_prepare_standardises_the_pixels(name, few_digits):
    needs_torchdiffeq(name)
    images, labels = 3 * few_digits.train_images + 2, few_digits.train_labels
    model = built(name, images, labels, num_steps=2)
    pixels = (model.encoder[0] if name == "shared" else model.encoder)(images)
    deviation, mean = torch.std_mean(pixels, correction=0)
    assert (mean.item(), deviation.item()) == pytest.approx((0, 1), abs=1e-5)


def test_an_unknown_recipe_is_refused():
    with pytest.raises(NoPropError, match="unknown recipe 'best'; choose one of shared, local, closed_form, published"):
        recipe_named("best")


@pytest.mark.parametrize(
    "name, values, message",
    [
        *((name, {"num_steps": 0}, "num_steps must be at least 1, got 0") for name in RECIPES),
        ("shared", {"hidden_dim": 0}, "hidden_dim must be at least 1, got 0"),
        ("local", {"hidden_dim": -1}, "hidden_dim must be at least 1, got -1"),
        ("local", {"num_centres": -1}, "num_centres must be at least 0, got -1"),
        ("local", {"patch_size": -1}, "patch_size must be at least 0, got -1"),
        ("closed_form", {"num_centres": -1}, "num_centres must be at least 0, got -1"),
        ("closed_form", {"num_centres": 50_001}, "num_centres must be at most 50000"),
        ("local", {"num_centres": 50_001}, "num_centres must be at most 50000, the patches that they are fitted to, got 50001"),
        ("residual", {"width": 0}, "width must be at least 1, got 0"),
        ("paper-dt", {"eta": -0.1}, "eta must be at least 0, got -0.1"),
        ("paper-ct", {"eta": float("nan")}, "eta must be at least 0, got nan"),
        ("paper-fm", {"sigma": -1.0}, "sigma must be at least 0, got -1.0"),
        *((name, {"embedding": "best"}, "must be one of one_hot, learned, prototype, got 'best'") for name in PAPER),
    ],
)
def test_settings_of_a_model_that_mean_nothing_are_refused(name, values, message):
    with pytest.raises(NoPropError, match=message):
        RECIPES[name](**values)


# --- The book's own ---


def test_published_is_the_notebooks_schedule_and_rule(few_digits):
    model = built("published", few_digits.train_images, few_digits.train_labels)
    assert torch.equal(model.alpha_bar, alpha_bar_from_alphas(linear_alphas(10)))
    assert model.alpha_bar[1] == 1  # the first step adds no noise
    assert model.posterior is None and model.levels[0] == 1 and model.objective == "squared_error"
    convolutions = [module for module in model.encoder.modules() if isinstance(module, nn.Conv2d)]
    assert [c.padding for c in convolutions] == [(1, 1)] * 2  # 8 x 8 pixels, which the notebook never met
    mnist = RECIPES["published"]().build(Shape((1, 28, 28), K, 60_000))
    assert [c.padding for c in mnist.encoder.modules() if isinstance(c, nn.Conv2d)] == [(0, 0)] * 2
    assert RECIPES["published"]().settings(Shape((1, 28, 28), K, 60_000)) == Settings(epochs=50)


def test_shared_trains_its_encoder_and_answers_without_noise(few_digits):
    model = built("shared", few_digits.train_images, few_digits.train_labels)
    assert model.train_encoder and not model.inference_noise and model.num_layers == 10
    assert torch.equal(model.alpha_bar, cosine_alpha_bar(10))
    own = RECIPES["shared"]().settings(Shape((1, 28, 28), K, 60_000))
    assert own == Settings(epochs=5, learning_rate=8e-3, one_cycle=True)


def test_local_goes_by_the_size_of_the_images(few_digits):
    small = RECIPES["local"]().build(Shape((1, 8, 8), K, 150)).encoder
    large = RECIPES["local"]().build(Shape((3, 28, 28), K, 60_000)).encoder
    given = RECIPES["local"](num_centres=7, patch_size=4).build(Shape((1, 28, 28), K, 60_000)).encoder
    assert [e.filters.shape for e in (small, large, given)] == [(9, 100), (3 * 36, 256), (16, 7)]
    own = RECIPES["local"]().settings(Shape((1, 28, 28), K, 60_000))
    assert own == Settings(epochs=6, batch_size=256, learning_rate=4e-3, one_cycle=True, feature_dropout=0.3)
    with pytest.raises(NoPropError, match=r"patches of 9 x 9 pixels do not fit into images \[1, 8, 8\]"):
        RECIPES["local"](patch_size=9).build(Shape((1, 8, 8), K, 150))
    model = built("local", few_digits.train_images, few_digits.train_labels, num_steps=2)
    assert list(model.encoder.parameters()) == [] and model.encoder.filters.abs().sum() > 0  # fitted, by ``prepare``


def test_closed_form_goes_by_size_and_colour(few_digits):
    """Grey images go on through random features; coloured ones are seen from both sides."""
    build = {image: RECIPES["closed_form"]().build(Shape(image, K, 100)) for image in ((1, 8, 8), (1, 28, 28), (3, 32, 32))}
    encoders = [model.encoder for model in build.values()]
    assert [e.filters.shape for e in encoders] == [(9, 100), (64, 64), (3 * 36, 1600)]
    assert [e.feature_dim for e in encoders] == [1000, 3000, 2 * 4 * 1600]
    assert [e.mirrored for e in encoders] == [False, False, True]
    assert RECIPES["closed_form"](num_centres=7).build(Shape((1, 8, 8), K, 100)).encoder.filters.shape == (9, 7)
    own = RECIPES["closed_form"]().settings(Shape((3, 32, 32), K, 50_000))
    assert own == Settings(order="solved", batch_size=1000, weight_decay=2e-4, precision="auto")
    with pytest.raises(NoPropError, match=r"patches of 3 x 3 pixels do not fit into images \[1, 8, 2\]"):
        RECIPES["closed_form"]().build(Shape((1, 8, 2), K, 150))
    model = built("closed_form", few_digits.train_images, few_digits.train_labels, num_steps=2)
    assert model.objective == "squared_error" and not model.inference_noise and list(model.encoder.parameters()) == []


@pytest.mark.whole
@pytest.mark.parametrize("asked, see", [
    ({"upright": True}, Upright()),
    ({"margin": 1}, lambda images: images[:, :, 1:-1, 1:-1]),
    ({"upright": True, "margin": 1}, lambda images: Upright()(images)[:, :, 1:-1, 1:-1]),
])  # fmt: skip
def test_recipes_see_images_as_they_are_asked_to(asked, see, few_digits):
    """Set upright, without a margin, or both, in this order; and what is fitted is fitted to that."""
    images, labels = few_digits.train_images, few_digits.train_labels
    assert not torch.equal(see(images), images)
    for name in ("closed_form", "shared"):
        encoder = built(name, images, labels, num_steps=1, **asked).encoder.eval()
        expected = built(name, see(images), labels, num_steps=1).encoder.eval()
        assert states_equal(encoder, expected) and torch.equal(encoder(images), expected(see(images)))


def test_a_margin_leaves_images_that_a_recipe_can_see():
    with pytest.raises(NoPropError, match=r"^a margin of 4 pixels on every side leaves nothing of images \[1, 12, 8\]$"):
        RECIPES["shared"](margin=4).build(Shape((1, 12, 8), K, 100))
    with pytest.raises(NoPropError, match=r"^images \[1, 6, 2\] are too small for this recipe: it needs sides of 4 pixels$"):
        RECIPES["shared"](margin=3).build(Shape((1, 12, 8), K, 100))
    with pytest.raises(NoPropError, match=r"^patches of 3 x 3 pixels do not fit into images \[1, 6, 2\]$"):
        RECIPES["closed_form"](margin=3).build(Shape((1, 12, 8), K, 100))
    for name in ("shared", "closed_form"):
        with pytest.raises(NoPropError, match="margin must be at least 0, got -1"):
            RECIPES[name](margin=-1)


def test_a_small_data_set_gets_as_many_steps_as_it_needs():
    """Some 600 updates, where MNIST's epochs would be few."""
    assert RECIPES["shared"]().settings(Shape((1, 8, 8), K, 1437)).epochs == 50  # 12 batches of 128
    assert RECIPES["local"]().settings(Shape((1, 8, 8), K, 1437)).epochs == 100  # 6 of 256
    assert RECIPES["shared"]().settings(Shape((1, 8, 8), K, 20_000)).epochs == 5


@pytest.mark.parametrize("image, num_classes, num_images", [
    ((1, 28, 28), 10, 60_000), ((3, 32, 32), 10, 50_000), ((3, 32, 32), 100, 50_000), ((1, 28, 28), 10, 8_950),
])  # fmt: skip
def test_continuous_time_is_table_3_where_its_epochs_are_7000_updates(image, num_classes, num_images):
    shape = Shape(image, num_classes, num_images)
    assert RECIPES["paper-ct"]().settings(shape) == RECIPES["paper-fm"]().settings(shape)


def test_continuous_time_gets_7000_updates_in_one_cycle_on_small_data():
    small = Shape((1, 8, 8), K, 1437)  # 12 batches
    own, paper = RECIPES["paper-ct"]().settings(small), RECIPES["paper-fm"]().settings(small)
    assert paper.epochs == 100 and not paper.one_cycle
    assert own == dataclasses.replace(paper, epochs=584, one_cycle=True, cuda_graphs=False)
    assert RECIPES["paper-ct"]().settings(Shape((1, 28, 28), K, 8_800)).one_cycle  # 69 batches, 100 epochs: 6,900


def test_residual_is_for_colour_images(few_digits):
    model = built("residual", few_digits.train_images, few_digits.train_labels, num_steps=2, width=4)
    assert model.layer_local and not model.inference_noise and model.num_layers == 2
    maps = model.encoder(few_digits.train_images)  # whitened patches, fitted
    assert maps.shape[1:] == model.layers[0].map_shape == (8, 7, 7) and maps.std((0, 2, 3)).min() > 0.1
    own = RECIPES["residual"]().settings(Shape((3, 32, 32), K, 50_000))
    assert (own.augment, own.order, own.precision, own.optimizer) == (True, "layer", "auto", "adamw")


def test_blank_images_are_refused_in_one_line(few_digits):
    images = torch.ones_like(few_digits.train_images)
    with pytest.raises(NoPropError, match="all patches of these images are alike.*; look at the images"):
        built("residual", images, few_digits.train_labels, num_steps=1, width=4)


# --- The paper's ---


@pytest.mark.parametrize("image, num_classes, epochs", [
    ((1, 28, 28), 10, {"dt": 100, "backprop": 100, "ct": 100, "fm": 100, "adjoint": 100}),
    ((3, 32, 32), 10, {"dt": 150, "backprop": 150, "ct": 500, "fm": 500, "adjoint": 500}),
    ((3, 32, 32), 100, {"dt": 150, "backprop": 150, "ct": 1000, "fm": 1000, "adjoint": 1000}),
])  # fmt: skip
def test_the_papers_settings(image, num_classes, epochs):
    """Tables 1 and 3 of the paper."""
    shape = Shape(image, num_classes, 50_000)
    for variant, expected in epochs.items():
        own = RECIPES[f"paper-{variant}"]().settings(shape)
        assert (own.epochs, own.batch_size, own.learning_rate) == (expected, 128, 1e-3)
        assert own.weight_decay == 1e-3 and not own.one_cycle and own.order == "layer"
        assert own.optimizer == ("adamw" if variant in ("dt", "backprop") else "adam")
        assert own.precision == "auto"  # bfloat16 only where the hardware computes it
        assert own.cuda_graphs == (variant != "adjoint")  # whose solver is Python
        if variant == "adjoint":
            pytest.importorskip("torchdiffeq")
        model = RECIPES[f"paper-{variant}"]().build(shape)
        assert model.num_layers == (10 if variant == "dt" else 1)
        if variant == "backprop":
            assert len(model.net.blocks) == 10
        elif variant == "adjoint":
            assert model.net.num_steps == 1000
        elif variant in ("ct", "fm"):
            assert model.num_steps == 1000
        assert {"dt": 0.1, "ct": 1.0}.get(variant) == getattr(model, "eta", None)


@pytest.mark.whole
@pytest.mark.parametrize("name", PAPER)
@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_variants_train_predict_save_and_load(name, embedding, few_digits, tmp_path):
    needs_torchdiffeq(name)
    images, labels = few_digits.train_images, few_digits.train_labels
    one, other = (built(name, images, labels, num_steps=2, embedding=embedding) for _ in range(2))
    before = copy.deepcopy(one.W)
    losses = fit(one, images, labels, Settings(order="layer"))
    assert losses.isfinite().all() and losses.shape == (1, one.num_layers)
    # Learned embeddings receive gradients, frozen ones do not.
    assert torch.equal(one.W, before) == (embedding == "one_hot") == (not one.W.requires_grad)
    assert one.W.shape == (K, {"one_hot": K, "learned": 20, "prototype": 64}[embedding])
    one.save(tmp_path / "model.pt")
    other.load(tmp_path / "model.pt")
    assert states_equal(one, other)
    predicted = [model.predict(few_digits.test_images, generator(2)) for model in (one, other)]
    assert torch.equal(*predicted) and predicted[0].dtype == torch.int64
    wrong = small_dt(images, T=1) if name != "paper-dt" else built("paper-ct", images, labels, embedding=embedding)
    with pytest.raises(ValueError, match="has kind NoProp|has kind Propagated"):
        wrong.load(tmp_path / "model.pt")


# Back-propagation whose read-out starts at random merges classes, and is right about half of the time here.
@pytest.mark.slow
@pytest.mark.parametrize(
    "name, num_steps, epochs, batch_size", [("paper-dt", 2, 5, 32), ("paper-fm", 10, 15, 128), ("paper-backprop", 2, 6, 128)]
)
def test_the_papers_models_learn_digits(name, num_steps, epochs, batch_size, digits):
    images, labels = digits.train_images, digits.train_labels
    model = built(name, images, labels, num_steps=num_steps)
    chance = accuracy(model, digits.test_images, digits.test_labels, generator())
    fit(model, images, labels, Settings(epochs=epochs, batch_size=batch_size, order="layer"))
    assert accuracy(model, digits.test_images, digits.test_labels, generator()) > 0.9 > 0.5 > chance


def test_trained_embeddings_start_where_the_paper_says(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    learned = embedding_start("learned", images, labels, K, generator(3))
    torch.testing.assert_close(learned @ learned.T, torch.eye(K))  # orthonormal
    assert torch.equal(learned, embedding_start("learned", images, labels, K, generator(3)))
    assert not torch.equal(learned, embedding_start("learned", images, labels, K, generator(4)))
    many = embedding_start("learned", images, labels, 100, generator(3))  # no room for 100 orthogonal rows of 20
    assert many.shape == (100, 20) and many.norm(dim=1).mean().item() == pytest.approx(1, abs=0.1)
    assert torch.equal(embedding_start("prototype", images, labels, K, generator()), prototypes(images, labels, K))
    # ``prepare`` is where a model gets them: at the start of a run, from the training split.
    for embedding in ("learned", "prototype"):
        model = built("paper-dt", images, labels, num_steps=1, embedding=embedding)
        assert isinstance(model.W, nn.Parameter)
        assert torch.equal(model.W, embedding_start(embedding, images, labels, K, generator()))
    assert torch.equal(built("paper-dt", images, labels, num_steps=1).W, torch.eye(K))


@pytest.mark.parametrize("embedding", EMBEDDINGS)
def test_back_propagation_starts_with_every_label_read_as_its_own_class(embedding, few_digits):
    """Also where the embeddings are known only from the training split."""
    model = built("paper-backprop", few_digits.train_images, few_digits.train_labels, num_steps=2, embedding=embedding)
    near = model.W + 0.1 * torch.randn(model.W.shape, generator=generator()) * torch.pdist(model.W).min() / 8
    assert torch.equal(model.net.readout(near, model.W).argmax(1), torch.arange(K))
    expected = LinearReadout(model.W.shape[1], K)
    expected.start_nearest(model.W)
    assert states_equal(model.net.readout, expected)


def test_a_radial_readout_reaches_the_prediction(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    assert isinstance(built("paper-dt", images, labels, num_steps=1).readout, LinearReadout)
    model = built("paper-dt", images, labels, num_steps=2, radial=True)
    assert isinstance(model.readout, RadialReadout)
    fit(model, images, labels, Settings(order="layer"))
    z = torch.randn(9, K, generator=generator())
    assert torch.equal(model.classify(z), model.readout(z, model.W).argmax(1))


def test_a_models_settings_reach_the_model(few_digits):
    images, labels = few_digits.train_images, few_digits.train_labels
    assert built("paper-dt", images, labels, num_steps=2, eta=0.7).eta == 0.7
    assert built("paper-ct", images, labels, num_steps=2, eta=0.7).eta == 0.7
    assert built("paper-fm", images, labels, num_steps=2, sigma=0.3).sigma == 0.3
    assert built("shared", images, labels, num_steps=2, hidden_dim=5).layers[1].mlp[0].out_features == 5
    assert built("local", images, labels, num_steps=2, hidden_dim=5).layers[1].mlp[0].out_features == 5
    assert built("residual", images, labels, num_steps=1, width=3).layers[0].image_path[0].out_channels == 3


def test_the_adjoint_method_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchdiffeq", None)  # as if it were not installed
    with pytest.raises(NoPropError, match="needs torchdiffeq: pip install torchdiffeq"):
        RECIPES["paper-adjoint"]().build(Shape((1, 8, 8), K, 100))
