"""Cards are constructor calls to trusted targets; imports go one way only."""

import ast
from pathlib import Path

import pytest
import yaml

import zoo_gen
from tests.commands import call
from tests.zoos import compose
from zoo_gen import InputError
from zoo_gen.blueprint import blueprint_of
from zoo_gen.config import CONFIGS, command, instantiate

PACKAGE = Path(zoo_gen.__file__).parent
CARDS = sorted(path for group in ("zoo", "images", "executor", "architecture") for path in (CONFIGS / group).glob("*.yaml"))


@pytest.mark.parametrize(
    "target",
    [
        "pandas.read_pickle",
        "os.system",
        "zoo_gen.zoo.pd.read_pickle",
        "zoo_gen.zoo.json",
        "zoo_gen.config._private",
        "builtins.eval",
        "",
    ],
)
def test_untrusted_targets_are_refused(target: str) -> None:
    with pytest.raises(InputError, match="_target_"):
        instantiate({"_target_": target})


def test_a_trusted_target_is_called_with_its_keywords() -> None:
    built = instantiate(
        {
            "inner": [
                {
                    "_target_": "zoo_gen.executors.local.LocalExecutor",
                    "processes": 1,
                    "device": "cpu",
                    "precision": "float32",
                    "compile": None,
                }
            ]
        }
    )
    assert built["inner"][0].processes == 1
    with pytest.raises(InputError, match="does not fit"):
        instantiate({"_target_": "zoo_gen.executors.local.LocalExecutor", "proceses": 1})


@pytest.mark.parametrize("zoo", [path.stem for path in (CONFIGS / "zoo").glob("*.yaml")])
def test_every_zoo_card_makes_a_blueprint(zoo: str) -> None:
    assert blueprint_of(compose("zoo_gen", [f"zoo={zoo}"])["zoo"], load=[]).name == zoo


@pytest.mark.parametrize("card", CARDS, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_card_is_short_and_names_a_trusted_target(card: Path) -> None:
    content = yaml.safe_load(card.read_text())
    assert content["_target_"].startswith(("zoo_gen.", "wsl."))
    assert len([line for line in card.read_text().splitlines() if line and not line.startswith("#")]) <= 15


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            names.add((node.module or "").partition(".")[0])
    return names


def test_zoo_gen_never_imports_wsl() -> None:
    files = list(PACKAGE.rglob("*.py"))
    assert len(files) > 10
    assert [path.name for path in files if "wsl" in imported(path)] == []


def test_hydra_is_imported_only_by_the_configuration_and_the_commands() -> None:
    allowed = {
        "config.py",
        "__main__.py",
        "adopt.py",
        "command_line.py",
        "run_files.py",
        "train.py",
        "probe.py",
        "generate.py",
        "report.py",
        "tokenize.py",
    }
    files = [*PACKAGE.rglob("*.py"), *(PACKAGE.parent / "wsl").rglob("*.py")]
    assert {path.name for path in files if imported(path) & {"hydra", "omegaconf"}} <= allowed


def test_a_key_can_be_a_plain_value_of_one_command_and_a_group_of_another() -> None:
    import wsl.train  # registers its schema

    assert wsl.train.TrainConfig(**compose("train", ["zoo=/some/where else"])).zoo == "/some/where else"
    assert compose("zoo_gen", ["zoo=digits_mini"])["zoo"]["name"] == "digits_mini"


def test_a_list_can_be_given_where_a_group_of_cards_has_its_name() -> None:
    import wsl.probe  # registers its schema

    assert wsl.probe.ProbeConfig(**compose("probe", ["features=[embedding,'statistics*']"])).features == [
        "embedding",
        "statistics*",
    ]
    with pytest.raises(InputError, match=r"features=\[statistics\]"):
        compose("probe", ["features=statistics"])


TYPED = [
    "2026_11_29",
    "1.10",
    "1e3",
    ".5",
    "001",
    "true",
    "a/epoch=9-step=1000.ckpt",
    "josé.pt",
    "vit (1).pt",
    "[1]",
    "a,b.pt",
    "#",
    "'",
]
TYPED += ["&", "{a}", "${seed}", "\\", "\\'", "a\\${seed}\\", " x ", '"quoted"', "数据", "$(x)", "~x", "+x", "x:y", "%", "glob(*)"]


@pytest.mark.parametrize("text", TYPED)
def test_a_text_arrives_as_it_was_typed_in_every_command(text: str) -> None:
    import wsl.predict
    import wsl.train  # they register their schemas

    assert wsl.predict
    assert wsl.train
    assert compose("predict", ["run=x", f"path={text}"])["path"] == text
    assert compose("train", [f"run={text}"])["run"] == text
    images = compose("zoo_gen", ["images@zoo.pretrain_images=imagenet", f"zoo.pretrain_images.path={text}", f"path={text}"])
    assert images["zoo"]["pretrain_images"]["path"] == text
    assert images["path"] == text


def test_a_command_keeps_nothing_of_the_call_before() -> None:
    from wsl.training.settings import TrainConfig

    given: list[str] = []
    main = command("train", TrainConfig)(lambda config: given.append(config.zoo))
    call(main, "zoo=another")
    call(main)
    assert given == ["another", "digits_mini"]


def test_null_and_numbers_are_no_texts() -> None:
    import wsl.train  # registers its schema

    assert wsl.train
    found = compose("train", ["run=null", "steps=7", "model.width=5"])
    assert (found["run"], found["steps"], found["model"]["width"]) == (None, 7, 5)


def test_entries_of_lists_of_texts_arrive_as_they_were_typed() -> None:
    import wsl.property_prediction  # registers its schema

    assert wsl.property_prediction
    typed = compose("property_prediction", ["runs=[2026_11_29, a (1),'b,c',x=y]", "targets=[]"])
    assert (typed["runs"], typed["targets"]) == (["2026_11_29", "a (1)", "b,c", "x=y"], [])


def test_axes_on_the_command_line_replace_those_of_the_card() -> None:
    def axes(*given: str) -> dict[str, object]:
        return compose("zoo_gen", ["zoo=digits_mini", *given])["zoo"]["finetune"]["axes"]

    pairs = [["adamw", 1e-3], ["sgd", 1e-2]]
    assert axes("zoo.finetune.axes={head:[linear]}") == {"head": ["linear"]}
    for name in ("optimizer,learning_rate", '"optimizer,learning_rate"', "optimizer\\,learning_rate"):
        given = f"zoo.finetune.axes={{head:[linear],{name}:[[adamw,1e-3],[sgd,1e-2]]}}"
        assert axes(given) == {"head": ["linear"], "optimizer,learning_rate": pairs}
    card = axes()
    assert axes("zoo.finetune.axes.optimizer,learning_rate=[[adamw,1e-3],[sgd,1e-2]]") == card | {"optimizer,learning_rate": pairs}
    assert axes("zoo.finetune.axes.head=[mlp]") == card | {"head": ["mlp"]}
