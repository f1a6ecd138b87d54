"""Heat maps: exact values in simple cases, where they point, and that they depend on the network."""

import copy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.calibration import CalibratedClassifierCV
from sklearn.exceptions import NotFittedError
from sklearn.frozen import FrozenEstimator
from sklearn.linear_model import LogisticRegression, RidgeClassifier
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import FeatureUnion, Pipeline, make_pipeline
from sklearn.preprocessing import FunctionTransformer, StandardScaler

from cxr_sklearn import (
    AugmentedClassifier,
    BalancedClassifier,
    FineTunedClassifier,
    FrozenEmbedder,
    ImageLoader,
    ScratchCNNClassifier,
    make_radiographs,
)
from cxr_sklearn.exceptions import ImageReadError, InputError
from cxr_sklearn.models import _gradcam as gradcam
from cxr_sklearn.models import _occlusion as occlusion
from cxr_sklearn.models.calibration import KnownScores
from cxr_sklearn.models.explain import explain
from cxr_sklearn.models.model import CXRModel

SIZE = 64
keras = pytest.mark.keras


def opacities(n_patients, seed):
    """Healthy radiographs, half of them with a round opacity in a lung: images, target, opaque pixels."""
    images, frame = make_radiographs(n_patients, size=SIZE, random_state=seed)
    images = images[frame["target"].to_numpy() == 0].astype(float)
    target = np.arange(len(images)) % 2
    masks = np.zeros(images.shape, dtype=bool)
    draw = np.random.default_rng(seed)
    y, x = np.mgrid[-1 : 1 : SIZE * 1j, -1 : 1 : SIZE * 1j]
    for i in np.flatnonzero(target):
        column, row = draw.choice([-1, 1]) * draw.uniform(0.35, 0.5), draw.uniform(-0.45, 0.15)
        distance = ((x - column) ** 2 + (y - row) ** 2) / 0.16**2
        images[i] += 130 * np.exp(-distance)
        masks[i] = distance < 1
    return images.clip(0, 255).astype(np.uint8), target, masks


@pytest.fixture(scope="module")
def training():
    return opacities(200, seed=0)


@pytest.fixture(scope="module")
def test_images():
    return opacities(40, seed=1)


@pytest.fixture(scope="module")
def scratch(training):
    classifier = ScratchCNNClassifier(
        (8, 16, 32), dense_units=32, epochs=12, batch_size=16, dropout=0.1, precision="float32", learning_rate=3e-3,
        random_state=0, early_stopping=False,
    )  # fmt: skip
    return make_pipeline(ImageLoader(size=SIZE), classifier).fit(*training[:2])


def frozen(*behind, store=None, pooling="avg", loader=True, layer="conv_pw_3_relu"):
    """A pipeline of MobileNet's first layers, with random weights, and the given steps."""
    embedder = FrozenEmbedder(
        "MobileNet", weights="random", layer=layer, pooling=pooling, store=store, precision="float32"
    )
    return make_pipeline(*([ImageLoader(size=SIZE)] if loader else []), embedder, *behind)


def gain(heat, masks):
    """Mean ratio of the heat inside the opacities to that expected by chance."""
    ill = masks.any(axis=(1, 2))
    inside = (heat * masks)[ill].sum(axis=(1, 2)) / heat[ill].sum(axis=(1, 2))
    return float(np.mean(inside / masks[ill].mean(axis=(1, 2))))


def correlation(one, other):
    """Mean correlation of maps that are not flat."""
    pairs = [(a.ravel(), b.ravel()) for a, b in zip(one, other, strict=True) if a.std() and b.std()]
    assert len(pairs) > len(one) / 6
    return float(np.mean([np.corrcoef(*pair)[0, 1] for pair in pairs]))


def enlarged(coarse):
    large = np.asarray(Image.fromarray(np.float32(coarse.clip(0))).resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return large / large.max() if large.max() > 0 else large


@keras
class TestWhereMapsPoint:
    @pytest.mark.parametrize("method", ["gradcam", "occlusion"])
    def test_at_the_opacity(self, scratch, test_images, method):
        images, target, masks = test_images
        assert scratch.score(images, target) > 0.9
        heat = explain(scratch, images, method)
        assert heat.shape == images.shape
        assert heat.dtype == np.float32
        assert heat.min() == 0
        assert heat.max() == 1
        assert gain(heat, masks) > 3

    def test_not_at_the_opacity_of_another_image(self, scratch, test_images):
        images, target, masks = test_images
        ill = np.flatnonzero(target)
        heat = explain(scratch, images[ill])
        assert gain(heat, masks[ill]) > 2 * gain(heat, np.roll(masks[ill], 1, axis=0))

    def test_auto_takes_gradcam_and_chunks_change_nothing(self, scratch, test_images):
        images = test_images[0][:18]
        heat = explain(scratch, images)
        np.testing.assert_array_equal(heat, explain(scratch, images, "gradcam"))
        np.testing.assert_allclose(heat[16:], explain(scratch, images[16:]), atol=1e-4)


@keras
class TestOtherWeightsGiveOtherMaps:
    """Sanity checks for saliency maps (Adebayo et al., 2018): a random network must give another map."""

    def test_scratch(self, scratch, test_images):
        images = test_images[0]
        other = copy.deepcopy(scratch)
        other[-1]._seed = 1
        other[-1].weights_ = other[-1]._build().get_weights()
        assert correlation(explain(scratch, images), explain(other, images)) < 0.5
        np.testing.assert_array_equal(explain(copy.deepcopy(scratch), images), explain(scratch, images))

    def test_finetuned(self, training, test_images):
        images, target = training[0][:60], training[1][:60]
        classifier = FineTunedClassifier(
            "MobileNet", weights="random", trainable_from="conv_pw_5", layer="conv_pw_6_relu", dense_units=16,
            head_epochs=10, epochs=3, learning_rate=1e-3, batch_size=16, precision="float32", random_state=0,
            early_stopping=False,
        )  # fmt: skip
        model = make_pipeline(ImageLoader(size=SIZE), classifier).fit(images, target)
        other = copy.deepcopy(model)
        draw = np.random.default_rng(0)
        other[-1].weights_ = [draw.permutation(w.ravel()).reshape(w.shape) for w in classifier.weights_]
        heat = explain(model, test_images[0], "gradcam")
        assert (heat.max(axis=(1, 2)) == 1).mean() > 0.3
        assert correlation(heat, explain(other, test_images[0], "gradcam")) < 0.5

    def test_frozen(self, training, test_images, tmp_path):
        from cxr_sklearn._keras import import_keras

        model = frozen(StandardScaler(), LogisticRegression(max_iter=5000)).fit(*training[:2])
        path = tmp_path / "other.weights.h5"
        import_keras().utils.set_random_seed(1)
        import_keras().applications.MobileNet(
            weights=None, include_top=False, input_shape=(SIZE, SIZE, 3)
        ).save_weights(path)
        other = copy.deepcopy(model)
        other[1].set_params(weights=path).fit(ImageLoader(size=SIZE).transform(training[0]))
        found = correlation(explain(model, test_images[0]), explain(other, test_images[0]))
        assert found < 0.5


@keras
class TestGradCAM:
    def test_it_is_cam_by_hand(self, training, test_images):
        from cxr_sklearn.features._backbones import Backbone

        model = frozen(StandardScaler(), LogisticRegression(max_iter=5000)).fit(*training[:2])
        images = test_images[0][:6]
        network = Backbone("MobileNet", "random", "random:0", "conv_pw_3_relu", "float32").build((SIZE, SIZE, 3))
        maps = np.asarray(network(np.repeat(images[..., None], 3, axis=3)))
        cam = maps @ (model[-1].coef_[0] / model[-2].scale_)
        expected = [enlarged(map_) for map_ in cam]
        assert np.max(expected, axis=(1, 2)).tolist() == [1] * 6
        np.testing.assert_allclose(explain(model, images, "gradcam"), expected, atol=1e-4)

    @pytest.mark.parametrize("layer", ["conv_pw_3_relu", ("conv_pw_1_relu", "conv_pw_3_relu", "conv_pw_5_relu")])
    @pytest.mark.parametrize("pooling", ["avg", "max", "flatten"])
    def test_a_map_sums_to_what_the_features_add_to_the_score(self, training, test_images, pooling, layer):
        head = LogisticRegression(C=1e-4, max_iter=5000)
        model = frozen(head, pooling=pooling, layer=layer).fit(*training[:2])
        batch = model[0].transform(test_images[0][:5])
        maps = gradcam.gradcam_maps([model[1], model[2]])(batch)
        expected = model[-1].decision_function(model[1].transform(batch)) - model[-1].intercept_
        np.testing.assert_allclose(maps.sum(axis=(1, 2)), expected, rtol=1e-3)

    def test_flattened_maps_have_weights_of_their_own_place(self, training, test_images):
        model = frozen(LogisticRegression(C=1e-4, max_iter=5000), pooling="flatten").fit(*training[:2])
        images = test_images[0][:3]
        features = model[1].transform(model[0].transform(images))
        by_place = (features * model[-1].coef_).reshape(3, 16, 16, -1).sum(axis=3)
        np.testing.assert_allclose(explain(model, images), [enlarged(map_) for map_ in by_place], atol=1e-4)

    def test_gradient_of_a_network(self, scratch, test_images):
        from cxr_sklearn.models._gradcam import map_gradient

        to_maps, to_logits = scratch[-1].cut_at_last_maps()
        maps = np.asarray(to_maps(test_images[0][:4, :, :, None]), dtype=np.float32)
        assert maps.shape == (4, 8, 8, 32)
        step = 1e-2 * np.random.default_rng(0).standard_normal(maps.shape).astype(np.float32)

        def log_odds(values):
            logits = np.asarray(to_logits(values), dtype=float)
            return logits[:, 1] - logits[:, 0]

        change = (log_odds(maps + step) - log_odds(maps - step)) / 2
        expected = (map_gradient(to_logits, maps) * step).sum(axis=(1, 2, 3))
        assert np.abs(expected).max() > 1e-3
        np.testing.assert_allclose(expected, change, rtol=0.1, atol=1e-3)

    def test_low_precision_gives_nearly_the_same_map(self, scratch, test_images):
        low = copy.deepcopy(scratch)
        low[-1].precision_ = "bfloat16"
        assert correlation(explain(low, test_images[0]), explain(scratch, test_images[0])) > 0.9

    def test_wrappers_are_seen_through(self, training, test_images):
        head = [StandardScaler(), LogisticRegression(max_iter=5000)]
        images, target = training[0][:40], training[1][:40]
        expected = explain(frozen(*head).fit(images, target), test_images[0][:4])
        inner = frozen(*head, loader=False)
        balanced = make_pipeline(ImageLoader(size=SIZE), BalancedClassifier(inner, "none")).fit(images, target)
        np.testing.assert_allclose(explain(balanced, test_images[0][:4], "gradcam"), expected, atol=1e-5)
        scores = balanced.predict_proba(images)[:, [1]]
        known = FrozenEstimator(KnownScores().fit(scores, target))
        whole = CXRModel(balanced, calibrator=CalibratedClassifierCV(known, method="sigmoid").fit(scores, target))
        np.testing.assert_allclose(explain(whole, test_images[0][:4], "gradcam"), expected, atol=1e-5)
        views = AugmentedClassifier(inner, n_views=1, tta=True, random_state=0)
        augmented = make_pipeline(ImageLoader(size=SIZE), views).fit(images, target)
        assert explain(augmented, test_images[0][:1], "gradcam").max() == 1


class TestOcclusion:
    @staticmethod
    def corner(batch):
        """Return the mean grey level of the upper left quarter, the only feature of the classifier below."""
        return np.asarray(batch)[:, : SIZE // 2, : SIZE // 2, 0].mean(axis=(1, 2)).reshape(-1, 1) / 255

    def test_views(self):
        grey = np.random.default_rng(0).integers(0, 256, (28, 56), dtype=np.uint8)
        views = occlusion.occluded_views(grey)
        assert views.shape == (1 + 14 * 14, 28, 56)
        np.testing.assert_array_equal(views[0], grey)
        middle = views[1 + 14 * 7 + 7]
        np.testing.assert_array_equal(middle[13:17, 26:34], round(grey.mean()))
        middle[13:17, 26:34] = grey[13:17, 26:34]
        np.testing.assert_array_equal(middle, grey)
        first = views[1]
        assert (first != grey)[:3, :6].any()
        assert not (first != grey)[3:].any()
        covered = (views[1:] == round(grey.mean())).any(axis=0)
        assert covered.all()

    def test_heat_is_where_the_score_comes_from(self):
        images = np.zeros((20, SIZE, SIZE), dtype=np.uint8)
        images[::2, : SIZE // 2, : SIZE // 2] = 200
        target = (np.arange(20) % 2 == 0).astype(int)
        model = make_pipeline(
            ImageLoader(size=SIZE), FunctionTransformer(self.corner), LogisticRegression(C=100)
        ).fit(images, target)  # fmt: skip
        heat = explain(model, images[:2])
        assert heat[0, 16, 16] == pytest.approx(1, abs=0.05)
        assert not heat[0, SIZE // 2 + 8 :].any()
        assert not heat[0, :, SIZE // 2 + 8 :].any()
        assert not heat[1].any()  # black everywhere: a patch changes nothing, and the map stays 0

    @keras
    def test_the_store_is_left_alone(self, training, test_images, tmp_path):
        images, target = training[0][:30], training[1][:30]
        union = FeatureUnion([("deep", frozen(store=tmp_path, loader=False)[0])])
        for behind in ([frozen(store=tmp_path, loader=False)[0]], [union]):
            model = make_pipeline(ImageLoader(size=SIZE), *behind, KNeighborsClassifier(5)).fit(images, target)
            (path,) = tmp_path.glob("MobileNet*.sqlite")
            before = path.read_bytes()
            state = repr(model.get_params())
            assert explain(model, test_images[0][:1]).shape == (1, SIZE, SIZE)
            assert path.read_bytes() == before
            assert repr(model.get_params()) == state
        linear = frozen(LogisticRegression(max_iter=5000), store=tmp_path).fit(images, target)
        explain(linear, test_images[0][:1], "gradcam")
        assert path.read_bytes() == before

    @keras
    def test_auto_falls_back_on_it(self, training, test_images):
        model = frozen(KNeighborsClassifier(5)).fit(training[0][:40], training[1][:40])
        images = test_images[0][:2]
        np.testing.assert_array_equal(explain(model, images), explain(model, images, "occlusion"))
        with pytest.raises(InputError, match=r"KNeighborsClassifier is neither.*use method='occlusion'"):
            explain(model, images, "gradcam")


class TestErrors:
    images = np.zeros((4, SIZE, SIZE), dtype=np.uint8)
    target = np.array([0, 1, 0, 1])

    def flat(self, head, target=None):
        model = make_pipeline(
            ImageLoader(size=SIZE), FunctionTransformer(lambda batch: np.asarray(batch).reshape(len(batch), -1)), head
        )
        return model if target is None else model.fit(self.images, target)

    def test_method(self):
        with pytest.raises(InputError, match=r"method='lime' must be one of \('auto', 'gradcam', 'occlusion'\)"):
            explain(self.flat(LogisticRegression(), self.target), self.images, "lime")

    def test_unfitted(self):
        with pytest.raises(NotFittedError, match="not fitted"):
            explain(self.flat(LogisticRegression()), self.images)

    def test_no_pipeline(self):
        with pytest.raises(InputError, match="expected a fitted scikit-learn Pipeline, but got LogisticRegression"):
            explain(LogisticRegression(), self.images)

    def test_no_classifier_or_other_classes(self):
        with pytest.raises(InputError, match=r"are \['normal', 'pneumonia'\]"):
            explain(self.flat(LogisticRegression(), np.array(["normal", "pneumonia"] * 2)), self.images)
        with pytest.raises(InputError, match=r"0 \(normal\) and 1 \(pneumonia\).*\[\]"):
            explain(self.flat(StandardScaler(), self.target), self.images)

    def test_no_images(self):
        table = Pipeline([("scale", StandardScaler()), ("head", LogisticRegression())]).fit(np.eye(4), self.target)
        with pytest.raises(InputError, match="no ImageLoader"):
            explain(table, np.eye(4))

    def test_no_probabilities(self):
        with pytest.raises(InputError, match="RidgeClassifier has no predict_proba"):
            explain(self.flat(RidgeClassifier(), self.target), self.images)

    @keras
    @pytest.mark.parametrize("method", ["gradcam", "occlusion"])
    def test_unreadable_images_are_all_listed(self, training, tmp_path, method):
        model = frozen(LogisticRegression(max_iter=5000)).fit(training[0][:40], training[1][:40])
        paths = [tmp_path / f"{i}.png" for i in range(20)]
        for path, pixels in zip(paths, training[0], strict=False):
            Image.fromarray(pixels).save(path)
        paths[3].write_bytes(b"no image")
        paths[19].unlink()
        with pytest.raises(ImageReadError) as caught:
            explain(model, [str(path) for path in paths], method)
        assert [Path(path).name for path in caught.value.failures] == ["3.png", "19.png"]
