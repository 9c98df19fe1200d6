"""The test kit itself: each law is broken by a class that violates only that law, and reports it."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from yacs.config import CfgNode as CN

from mdistiller_dfpt import DISTILLERS, Distiller, Output, distillation, label
from mdistiller_dfpt.config.keys import NOT_NEGATIVE
from mdistiller_dfpt.errors import ConfigError
from mdistiller_dfpt.losses.term import own
from mdistiller_dfpt.models.output import NoFeatures
from mdistiller_dfpt.teachers import TEACHERS, Frozen, Paths
from mdistiller_dfpt.testing import (
    CLASSES,
    DISTILLER_LAWS,
    NETWORK_LAWS,
    TEACHER_LAWS,
    BrokenLaw,
    TinyNet,
    check_distiller,
    check_network,
    check_teacher,
    take_steps,
    tiny_batch,
    tiny_data,
    tiny_distiller,
    tiny_networks,
    tiny_others,
)

IMAGE_SHAPE = (3, 8, 8)


class Good(Distiller):
    """Obeys all laws; each class below violates one."""

    config = CN({"WEIGHT": 1.0})

    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher)
        self.weight = weight

    def losses(self, student, teacher, batch):
        gap = F.mse_loss(student.logits, teacher.logits)
        return {"ce": label(F.cross_entropy(student.logits, batch.target)), "mine": distillation(gap, self.weight)}


class MovesTheTeacher(Good):
    def losses(self, student, teacher, batch):
        self.teacher.network.bn1.running_mean += 1
        return super().losses(student, teacher, batch)


class LeavesTheTeacherInTrainingMode(Good):
    def before_step(self):
        self.teacher.network.training = True  # but not its BatchNorm, whose statistics would reveal it


class RunsTheStudentWhenBuilt(Good):
    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher, weight=weight)
        student(torch.ones(2, *IMAGE_SHAPE))


class TrainsNothingWithIt(Good):
    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher, weight=weight)
        self.idle = nn.Linear(2, 2)


class HidesAModuleInAList(Good):
    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher, weight=weight)
        self.hidden = [nn.Linear(CLASSES, CLASSES)]

    def losses(self, student, teacher, batch):
        moved = student._replace(logits=self.hidden[0](student.logits))
        return super().losses(moved, teacher, batch)


class KeepsAnAverageOutOfItsState(Good):
    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher, weight=weight)
        self.average = torch.zeros(CLASSES)

    def losses(self, student, teacher, batch):
        self.average += student.logits.detach().mean(0)
        return super().losses(student, teacher, batch)


class CountsCalls(Good):
    calls = 0

    def losses(self, student, teacher, batch):
        self.calls += 1
        return {name: term.times(self.calls) for name, term in super().losses(student, teacher, batch).items()}


class ClimbsItsLoss(Good):
    def losses(self, student, teacher, batch):
        return {"ce": label(-F.cross_entropy(student.logits, batch.target).clamp(max=20.0))}


class ComputesInDouble(Good):
    def losses(self, student, teacher, batch):
        return {"ce": label(F.cross_entropy(student.logits.double(), batch.target))}


class ReadsMemoryInItsOrder(Good):
    def losses(self, student, teacher, batch):
        maps = student.features["feats"][2]
        flat = torch.as_strided(maps, (maps[0].numel(),), (1,), maps.storage_offset())
        return {**super().losses(student, teacher, batch), "mine": distillation(flat[:16].mean(), 30.0)}


class HasOtherTermsUnderBfloat16(Good):
    def losses(self, student, teacher, batch):
        terms = super().losses(student, teacher, batch)
        return terms if self.student_dtype is None else {"ce": terms["ce"]}


class TakesTheLogarithmOfASoftmax(Good):
    def losses(self, student, teacher, batch):
        return {"ce": label(-student.logits.softmax(1).log().gather(1, batch.target[:, None]).mean())}


class HasAGradientThatIsNotFinite(Good):
    def losses(self, student, teacher, batch):
        gap = (student.logits - student.logits.detach()).square().sum().sqrt()
        return {**super().losses(student, teacher, batch), "gap": distillation(gap)}


class DividesByADeviation(Good):
    def losses(self, student, teacher, batch):
        spread = (student.logits - student.logits.mean(0)).square().sum() / (len(student.logits) - 1)
        return {**super().losses(student, teacher, batch), "spread": distillation(spread)}


class DeploysSomethingElse(Good):
    def __init__(self, student, teacher, *, weight):
        super().__init__(student, teacher, weight=weight)
        other = copy.deepcopy(student).requires_grad_(False)
        other.fc.bias.data += 1
        self.other = other

    @property
    def deployed(self):
        return self.other

    def forward_student(self, image):
        return Output(*self.student(image))


class MatchesTheBatchesMean(Good):
    def losses(self, student, teacher, batch):
        gap = F.mse_loss(student.logits.mean(0), teacher.logits.mean(0))
        return {**super().losses(student, teacher, batch), "mean": distillation(gap)}


class CallsDistillationALabelTerm(Good):
    def losses(self, student, teacher, batch):
        return {"ce": label(F.cross_entropy(student.logits, batch.target)),
                "kd": label(F.mse_loss(student.logits, teacher.logits))}  # fmt: skip


class ChangesAMapInPlace(Good):
    def losses(self, student, teacher, batch):
        teacher.features["feats"][-1].mul_(2)
        return super().losses(student, teacher, batch)


class CouplesFromTheSecondEpochOn(Good):
    def losses(self, student, teacher, batch):
        gap = student.logits - teacher.logits
        gap = (gap.mean(0) if batch.epoch > 1 else gap).square().mean()
        return {**super().losses(student, teacher, batch), "mean": distillation(gap)}


class WeighsBySharesOfTheBatch(Good):
    def losses(self, student, teacher, batch):
        sure = teacher.logits.softmax(1).max(1).values
        gap = F.cross_entropy(student.logits, batch.target, reduction="none")
        return {**super().losses(student, teacher, batch), "sure": distillation((sure / sure.sum() * gap).sum())}


class SumsOverTheBatch(Good):
    def losses(self, student, teacher, batch):
        return {"ce": label(F.cross_entropy(student.logits, batch.target, reduction="sum"))}


class ReturnsTheTeachersLogits(Good):
    def forward(self, batch):
        _, terms = super().forward(batch)
        return self.teacher(batch)["teacher"].logits, terms


class ReadsAStrongViewThatItDoesNotDeclare(Good):
    def losses(self, student, teacher, batch):
        strong = F.mse_loss(self.forward_student(batch.strong).logits, teacher.logits)
        return {**super().losses(student, teacher, batch), "strong": distillation(strong)}


class TakesAStrongViewWhereThereIsOne(Good):
    def losses(self, student, teacher, batch):
        image = batch.image if batch.strong is None else batch.strong
        return super().losses(self.forward_student(image), teacher, batch)


class ReadsUnlabelledImagesThatItDoesNotDeclare(Good):
    def losses(self, student, teacher, batch):
        others = self.forward_student(batch.extra.image).logits
        return {**super().losses(student, teacher, batch), "others": distillation(others.square().mean())}


class TakesNumbersWhereLabelsAreMixed(Good):
    takes_soft_labels = True


class SaysThatItsTermsHaveParts(Good):
    has_parts = True


class ReadsFeaturesThatItDoesNotDeclare(Good):
    needs_teacher_maps = False

    def losses(self, student, teacher, batch):
        gap = student.logits.mean() - teacher.features["pooled_feat"].mean()
        return {**super().losses(student, teacher, batch), "gap": distillation(gap.square())}


class TakesAnyKeyword(Good):
    def __init__(self, student, teacher, **anything):
        super().__init__(student, teacher, weight=anything["weight"])


class ComputesSomethingElseOnceCompiled(Good):
    def losses(self, student, teacher, batch):
        factor = 2.0 if torch.compiler.is_compiling() else 1.0
        return {name: term.times(factor) for name, term in super().losses(student, teacher, batch).items()}


BROKEN_DISTILLERS = [
    (ComputesSomethingElseOnceCompiled, "compiled_it_computes_the_same", "the term 'ce' is "),
    (MovesTheTeacher, "the_teacher_never_changes", "a step changed ['bn1.running_mean'] of the frozen network"),
    (LeavesTheTeacherInTrainingMode, "the_teacher_never_changes", "training mode"),
    (RunsTheStudentWhenBuilt, "construction_leaves_the_networks_as_they_are", "the constructor changed ['bn1.running_"),
    (
        TrainsNothingWithIt,
        "every_leaf_of_the_loss_is_optimised",
        "['idle.bias', 'idle.weight'] are optimised but affect no",
    ),
    (HidesAModuleInAList, "every_leaf_of_the_loss_is_optimised", "which is in no parameter group: store modules as"),
    (KeepsAnAverageOutOfItsState, "every_tensor_that_changes_is_saved", "1 tensors that a step changes are not in"),
    (CountsCalls, "a_restored_method_goes_on_as_the_first", "the term 'ce' differs after a resume"),
    (ClimbsItsLoss, "one_batch_can_be_overfitted", "it does not learn"),
    (ComputesInDouble, "terms_are_float32_scalars_under_bfloat16", "the term 'ce' is torch.float64, not float32"),
    (ReadsMemoryInItsOrder, "bfloat16_and_channels_last_agree_with_float32", "the term 'mine' is"),
    (HasOtherTermsUnderBfloat16, "bfloat16_and_channels_last_agree_with_float32", "other terms under bfloat16: ['ce']"),
    (TakesTheLogarithmOfASoftmax, "terms_are_finite_at_a_logit_gap_of_a_thousand", "the term 'ce' is inf"),
    (HasAGradientThatIsNotFinite, "terms_are_finite_at_a_logit_gap_of_a_thousand", "are not finite"),
    (DividesByADeviation, "the_smallest_batch_is_trained_on", "the term 'spread' is nan on a batch of 1"),
    (DeploysSomethingElse, "in_eval_mode_what_is_deployed_speaks", "not those of `deployed`"),
    (CallsDistillationALabelTerm, "label_terms_do_not_depend_on_the_teacher", "the terms ['kd'] change with the"),
    (ChangesAMapInPlace, "inputs_are_left_as_they_are", "outputs are changed in place: write x = x + y"),
    (CouplesFromTheSecondEpochOn, "a_batch_may_be_shared_by_two_processes", "the term 'mean' of two shards"),
    (WeighsBySharesOfTheBatch, "a_batch_may_be_shared_by_two_processes", "the term 'sure' of two shards"),
    (MatchesTheBatchesMean, "a_batch_may_be_shared_by_two_processes", "set `couples_samples = True` in the class"),
    (SumsOverTheBatch, "a_batch_may_be_shared_by_two_processes", "or take the mean over the batch if it is a sum"),
    (ReturnsTheTeachersLogits, "the_logits_are_the_students", "change with the teacher's: return the student's"),
    (ReadsAStrongViewThatItDoesNotDeclare, "a_strong_view_is_read_only_if_declared", "it raises TypeError: "),
    (TakesAStrongViewWhereThereIsOne, "a_strong_view_is_read_only_if_declared", "terms change with the strong view"),
    (ReadsUnlabelledImagesThatItDoesNotDeclare, "unlabelled_images_are_read_only_if_declared", "`needs_extra = True`"),
    (TakesNumbersWhereLabelsAreMixed, "soft_labels_replace_the_numbers_if_declared", "use `batch.labels`, or"),
    (SaysThatItsTermsHaveParts, "its_terms_have_parts_if_declared", "the terms ['mine'] have no `part`: give them one"),
    (
        ReadsFeaturesThatItDoesNotDeclare,
        "the_teachers_features_are_read_only_if_declared",
        "it reads the teacher's 'pooled_feat': set `needs_teacher_maps = True` in the class",
    ),
    (TakesAnyKeyword, "an_unknown_keyword_is_refused", "the constructor accepts any keyword"),
]


class Learning(Frozen):
    """A teacher with a second path, a trained linear layer; each class below violates one law."""

    def __init__(self, network):
        super().__init__(network)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.head = nn.Linear(CLASSES, CLASSES)

    def path_names(self):
        return ("teacher", "head")

    def forward(self, batch):
        original = self.original(batch)
        return Paths({"teacher": lambda: original, "head": lambda: self.second(original)})

    def second(self, original):
        return Output(self.head(original.logits), original.features)

    def losses(self, student, outputs, batch):
        return {"head_ce": own(F.cross_entropy(outputs["head"].logits, batch.target))}

    def evaluated_paths(self, image):
        return {"head": self.head(self.logits(image))}


class NamesAPathThatItHasNot(Learning):
    def path_names(self):
        return ("teacher", "head", "heart")


class MatchesNoPathOfIts(Learning):
    def default_paths(self):
        return {"heart": 1.0}


class HasTheMapsOfAnother(Learning):
    def network_of(self, path):
        return TinyNet(5)


class DoesNotSayThatItHasNoMaps(Learning):
    def second(self, original):
        return Output(super().second(original).logits, NoFeatures("no {!r}"))


class MovesItsNetwork(Learning):
    def losses(self, student, outputs, batch):
        self.network.bn1.running_mean += 1
        return super().losses(student, outputs, batch)


class HidesItsFrozenNetwork(Learning):
    def frozen(self):
        return []

    def losses(self, student, outputs, batch):
        self.network.bn1.running_mean += 1
        return super().losses(student, outputs, batch)


class TrainsTheStudent(Learning):
    def losses(self, student, outputs, batch):
        return {"head_ce": label(F.cross_entropy(outputs["head"].logits, batch.target))}


class TrainsNotAllOfIt(Learning):
    def losses(self, student, outputs, batch):
        without_bias = outputs["teacher"].logits @ self.head.weight.T
        return {"head_ce": own(F.cross_entropy(without_bias, batch.target))}


class CountsSteps(Learning):
    scale = 1.0

    def after_step(self, batch):
        self.scale += 1

    def second(self, original):
        return Output(self.scale * self.head(original.logits), original.features)


class CountsEvaluations(Learning):
    def __init__(self, network):
        super().__init__(network)
        self.register_buffer("evaluations", torch.zeros(()))

    def evaluated_paths(self, image):
        self.evaluations += 1
        return super().evaluated_paths(image)


class SpeaksBfloat16(Learning):
    def second(self, original):
        return Output(super().second(original).logits.to(self.dtype), original.features)


class DrawsNoise(Learning):
    def second(self, original):
        plain = super().second(original)
        return Output(plain.logits + torch.randn_like(plain.logits), plain.features)


class RunsItsNetworkInFloat32(Learning):
    def original(self, batch):
        with torch.no_grad():
            return Output(*self.network(batch.image))


class EvaluatesItsNetworkInFloat32(Learning):
    def logits(self, image):
        return self.network(image)[0]


class NormalisesByTheBatch(Learning):
    def second(self, original):
        plain = super().second(original)
        return Output(plain.logits - plain.logits.mean(0), plain.features)


class CountsEpochs(Learning):
    reads_only_images = True

    def forward(self, batch):
        return {path: Output(batch.epoch * out.logits, out.features) for path, out in super().forward(batch).items()}


class MatchesTheMeanOfTheBatch(Learning):
    def losses(self, student, outputs, batch):
        return {"head_mean": own(F.mse_loss(outputs["head"].logits.mean(0), student.logits.mean(0)))}


BROKEN_TEACHERS = [
    (NamesAPathThatItHasNot, "every_path_gives_logits", "forward gives"),
    (MatchesNoPathOfIts, "every_path_gives_logits", "the default paths {'heart'} are not in path_names"),
    (HasTheMapsOfAnother, "maps_are_those_of_the_paths_network", "feats of the path 'teacher' are"),
    (
        DoesNotSayThatItHasNoMaps,
        "maps_are_those_of_the_paths_network",
        "the path 'head' has no features, but `has_maps` returns True",
    ),
    (MovesItsNetwork, "frozen_networks_never_change", "['bn1.running_mean'] of a frozen network changed"),
    (HidesItsFrozenNetwork, "frozen_networks_never_change", "of a frozen network changed"),
    (TrainsTheStudent, "its_own_terms_train_it_and_not_the_student", "use own(value, weight)"),
    (TrainsNotAllOfIt, "its_own_terms_train_it_and_not_the_student", "1 optimised parameters affect no term"),
    (CountsSteps, "what_it_trains_is_saved", "the path 'head' has different outputs after a resume"),
    (CountsEvaluations, "evaluation_changes_nothing", "evaluation changed ['evaluations']"),
    (MatchesTheMeanOfTheBatch, "a_batch_may_be_shared_by_two_processes", "set `couples_samples = True` in the class"),
    (DrawsNoise, "the_same_batch_gives_the_same_outputs", "from `batch.epoch` and `batch.index`"),
    (RunsItsNetworkInFloat32, "frozen_networks_run_in_the_configured_precision", "use `self.run_frozen` or"),
    (EvaluatesItsNetworkInFloat32, "frozen_networks_run_in_the_configured_precision", "in {torch.float32} under"),
    (NormalisesByTheBatch, "outputs_of_a_sample_do_not_depend_on_the_others", "the outputs of the path 'head' for a"),
    (CountsEpochs, "unlabelled_images_are_taught_if_declared", "set `reads_only_images = False` in the class"),
    (SpeaksBfloat16, "bfloat16_changes_rounding_alone", "'head' is torch.bfloat16 under bfloat16"),
]


class HasNoHeadMap(TinyNet):
    def forward(self, image):
        logits, features = super().forward(image)
        return logits, {key: value for key, value in features.items() if key != "head_map"}


class SaysItsWidthsWrong(TinyNet):
    def __init__(self, width, num_classes):
        super().__init__(width, num_classes)
        self.stage_channels = (width, width, width)


class ScalesItsLogitsAfterwards(TinyNet):
    def forward(self, image):
        logits, features = super().forward(image)
        return 2 * logits, features


class RunsItsStagesTwice(TinyNet):
    def rerun(self, image, edit, before=()):
        return super().rerun(image, lambda i, x: x, before)


class CountsPasses(TinyNet):
    def __init__(self, width, num_classes):
        super().__init__(width, num_classes)
        self.register_buffer("passes", torch.zeros(()))

    def forward(self, image):
        self.passes += 1
        return super().forward(image)


class ClassifiesElsewhere(TinyNet):
    def __init__(self, width, num_classes):
        super().__init__(width, num_classes)
        self.fc = nn.Sequential(nn.Linear(2 * width, num_classes), nn.Linear(num_classes, num_classes + 1))

    def classify(self, x):
        pooled = x.mean((2, 3))
        return self.fc(pooled)[:, :-1], pooled


class HasAnIdleLayer(TinyNet):
    def __init__(self, width, num_classes):
        super().__init__(width, num_classes)
        self.idle = nn.Linear(2, 2)


BROKEN_NETWORKS = [
    (HasNoHeadMap, "it_returns_logits_and_features", "the features lack ['head_map']"),
    (SaysItsWidthsWrong, "it_returns_logits_and_features", "stage_channels is (4, 4, 4)"),
    (
        ScalesItsLogitsAfterwards,
        "running_the_stages_again_gives_the_same",
        "rerun from stage 0 on returns different logits",
    ),
    (RunsItsStagesTwice, "an_edit_of_every_map_reaches_the_logits", "an edit of stage 1 does not affect the logits"),
    (CountsPasses, "in_eval_mode_nothing_changes", "a forward pass in eval mode changed ['passes']"),
    (ClassifiesElsewhere, "the_classifier_has_the_classes", "classifier_layer has 8 outputs instead of 7"),
    (HasAnIdleLayer, "every_parameter_learns", "the logits do not depend on ['idle.weight', 'idle.bias']"),
]


def network_of(cls):
    """`check_network`'s argument."""
    return lambda num_classes: cls(4, num_classes)


def lines_of(check, *arguments, **values):
    with pytest.raises(BrokenLaw) as info:
        check(*arguments, **values)
    return str(info.value).splitlines()


def law_of(line):
    """The name of the broken law in a line of a report."""
    return line.split(": ")[1].replace(" ", "_")


@pytest.mark.parametrize(("cls", "law", "message"), BROKEN_DISTILLERS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_law_of_methods_is_named(cls, law, message):
    check = next(one for one in DISTILLER_LAWS if one.__name__ == law)
    with pytest.raises(BrokenLaw) as info:
        check(cls)
    assert message in str(info.value)


@pytest.mark.parametrize(("cls", "law", "message"), BROKEN_TEACHERS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_law_of_teachers_is_named(cls, law, message):
    lines = lines_of(check_teacher, cls)
    line = next(line for line in lines if law_of(line) == law)
    assert line.startswith(f"{cls.__name__}: ")
    assert message in line


@pytest.mark.parametrize(("cls", "law", "message"), BROKEN_NETWORKS, ids=lambda v: getattr(v, "__name__", ""))
def test_a_broken_law_of_networks_is_named(cls, law, message):
    lines = lines_of(check_network, network_of(cls), IMAGE_SHAPE)
    line = next(line for line in lines if law_of(line) == law)
    assert line.startswith(f"{cls.__name__}: ")
    assert message in line


def test_every_law_has_a_class_that_breaks_it():
    for laws, broken in (
        (DISTILLER_LAWS, BROKEN_DISTILLERS),
        (TEACHER_LAWS, BROKEN_TEACHERS),
        (NETWORK_LAWS, BROKEN_NETWORKS),
    ):
        assert {law.__name__ for law in laws} == {law for _, law, _ in broken}


def test_correct_classes_pass():
    check_distiller(Good)
    check_teacher(Learning)
    check_network(network_of(TinyNet), IMAGE_SHAPE)


class FailsForLargeWeights(Good):
    config = CN({"LOSS": CN({"WEIGHT": 1.0})})
    limits = {"LOSS.WEIGHT": NOT_NEGATIVE}

    def losses(self, student, teacher, batch):
        return (ComputesInDouble if self.weight > 2 else Good).losses(self, student, teacher, batch)


def test_laws_are_checked_with_the_values_that_are_given():
    lines = lines_of(check_distiller, FailsForLargeWeights, weight=3)
    assert lines[0].endswith("the term 'ce' is torch.float64, not float32")
    assert FailsForLargeWeights.config.LOSS.WEIGHT == 1.0


class Scaled(Learning):
    config = CN({"SCALE": 1.0})

    def __init__(self, network, *, scale):
        super().__init__(network)
        self.scale = scale

    def second(self, original):
        return Output(super().second(original).logits[:, : int(CLASSES * self.scale)], original.features)


def test_laws_of_teachers_are_checked_with_the_values_that_are_given():
    lines = lines_of(check_teacher, Scaled, scale=0.5)
    assert lines[0] == "Scaled: every path gives logits: the logits of 'head' are (8, 2), not (8, 5)"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"weight": -1.0}, "weight is -1.0; it must be >= 0"),
        ({"weight": "2"}, "weight is '2'; it must be a finite number"),
        ({"wieght": 1.0}, "FailsForLargeWeights has no key for wieght; did you mean weight"),
    ],
)
def test_a_value_that_a_config_could_not_have_is_refused(values, message):
    with pytest.raises(ConfigError) as info:
        check_distiller(FailsForLargeWeights, **values)
    assert str(info.value).startswith(message)


def test_random_outputs_of_a_teacher_are_the_only_fault_that_is_reported():
    assert len(lines_of(check_teacher, DrawsNoise)) == 1


def test_all_broken_laws_are_reported_together():
    class Both(MatchesTheBatchesMean, CountsCalls):
        """Violates two laws."""

    lines = lines_of(check_distiller, Both)
    laws = [law_of(line) for line in lines]
    assert {"a_batch_may_be_shared_by_two_processes", "a_restored_method_goes_on_as_the_first"} <= set(laws)
    assert all(line.startswith("Both: ") for line in lines)


def test_an_error_in_a_law_is_a_line_too_and_the_cause():
    class Raises(Good):
        def losses(self, student, teacher, batch):
            raise ZeroDivisionError("no")

    with pytest.raises(BrokenLaw, match="Raises: one batch can be overfitted: it raised ZeroDivisionError: no") as info:
        check_distiller(Raises)
    assert isinstance(info.value.__cause__, ZeroDivisionError)


def test_a_class_need_not_be_registered():
    assert "Good" not in {cls.__name__ for cls in (*DISTILLERS.values(), *TEACHERS.values())}


def test_tiny_networks_have_four_maps_and_no_axis_as_long_as_the_classes():
    for network in (*tiny_networks(), *tiny_others(2)):
        logits, features = network(tiny_batch().image)
        assert len(features["feats"]) == 4
        assert logits.shape == (8, CLASSES)
        assert CLASSES not in {size for x in features["feats"] for size in x.shape}


def test_tiny_networks_and_data_are_deterministic():
    for a, b in zip(tiny_networks(), tiny_networks(), strict=True):
        assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert torch.equal(tiny_batch(seed=3).image, tiny_batch(seed=3).image)
    assert not torch.equal(tiny_batch(seed=3).image, tiny_batch(seed=4).image)
    assert torch.equal(tiny_data().train.padded, tiny_data().train.padded)
    assert take_steps(tiny_distiller("VID"), 3) == take_steps(tiny_distiller("VID"), 3)
