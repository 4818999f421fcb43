import pickle
import subprocess
import sys
from typing import Annotated, Any

import pytest
from pydantic import Field

from pairmill.config import Config
from pairmill.errors import RecipeError
from pairmill.registry import ChosenBy, NamedConfig, Registry


class ShoutConfig(NamedConfig):
    loudness: int = Field(3, ge=1, description="exclamation marks")


class Shout:
    Config = ShoutConfig


class WhisperConfig(NamedConfig):
    pass


class Whisper:
    Config = WhisperConfig


VOICES: Registry[type] = Registry("speak.voice", {"shout": f"{__name__}:Shout"})
VOICES.add("whisper", Whisper)


class SpeakConfig(Config):
    voice: Annotated[NamedConfig, ChosenBy(VOICES, default="shout")] = WhisperConfig(name="whisper")


def test_an_entry_is_imported_when_it_is_asked_for_and_a_name_is_given_once() -> None:
    registry: Registry[object] = Registry("k", {"there": "json:dumps", "broken": "json:nothing"})
    import json

    assert registry.get("there") is json.dumps
    assert registry.names == ["there", "broken"]
    with pytest.raises(ValueError, match="must be registered once"):
        registry.add("there", print)
    with pytest.raises(RecipeError, match="no attribute 'nothing'"):
        registry.get("broken")
    with registry.extended("more", print):
        assert registry.get("more") is print
    with pytest.raises(RecipeError, match="perhaps you mean: there"):
        registry.get("thre")


def test_an_import_path_is_a_name_too() -> None:
    registry: Registry[object] = Registry("k")
    assert registry.get("collections.abc:Mapping.keys")
    with pytest.raises(RecipeError, match=r"k must be an import path.*\n.*no\.such:thing"):
        registry.get("no.such:thing")


def test_a_field_holds_the_configuration_of_the_entry_it_names() -> None:
    assert SpeakConfig.checked({}).voice == WhisperConfig(name="whisper")
    assert SpeakConfig.checked({"voice": "shout"}).voice == ShoutConfig(name="shout", loudness=3)
    assert SpeakConfig.checked({"voice": {"loudness": 7}}).voice == ShoutConfig(name="shout", loudness=7)
    own = SpeakConfig.checked({"voice": {"name": f"{__name__}:Shout", "loudness": 7}})
    assert own.model_dump(mode="json") == {"voice": {"name": f"{__name__}:Shout", "loudness": 7}}
    assert SpeakConfig.checked(own.model_dump(mode="json")) == own
    assert own.identity() == own.model_dump(mode="json")
    assert SpeakConfig().identity() == {"voice": {"name": "whisper"}}


@pytest.mark.parametrize(
    ("voice", "says"),
    [
        ({"name": "shout", "loudness": 0}, "speak.voice.loudness must be greater than or equal to 1"),
        ({"name": "shout", "loud": 1}, r"speak\.voice\.loud is not a key of the recipe, .*\n.*\n.*loudness"),
        (3, "speak.voice must be a name, or a mapping with a key `name`"),
        ("sing", "speak.voice must be one of shout, whisper"),
    ],
)
def test_what_is_wrong_names_the_whole_key(voice: object, says: str) -> None:
    with pytest.raises(RecipeError, match=says):
        SpeakConfig.checked({"voice": voice})


def test_the_schema_lists_every_entry() -> None:
    schema = SpeakConfig.model_json_schema()["properties"]["voice"]
    assert schema["anyOf"][0]["enum"] == ["shout", "whisper"]
    assert "loudness" in str(schema["anyOf"][1:]) + str(SpeakConfig.model_json_schema().get("$defs"))


class Sing:
    pass


def test_a_mapping_without_a_name_and_an_entry_without_keys_are_refused() -> None:
    with pytest.raises(RecipeError, match="or a mapping with a key `name`"):
        ChosenBy(VOICES).parse({"loudness": 1})
    with VOICES.extended("sing", Sing), pytest.raises(RecipeError, match="attribute Config"):
        SpeakConfig.checked({"voice": "sing"})


_ELSEWHERE = """
import pickle, sys
from pairmill.registry import Registry
config = pickle.load(sys.stdin.buffer)
print(Registry("speak.voice").get(config.name)().speak(config.loudness))
"""


def _hum() -> Any:
    """A voice that no other process can import."""

    class HumConfig(NamedConfig):
        loudness: int = 1

    class Hum:
        Config = HumConfig

        def speak(self, loudness: int) -> str:
            return "m" * loudness

    return Hum


def test_an_entry_that_was_added_here_is_known_where_its_configuration_goes() -> None:
    from ray import cloudpickle

    with VOICES.extended("hum", _hum()):
        pickled = cloudpickle.dumps(SpeakConfig.checked({"voice": {"name": "hum", "loudness": 3}}).voice)
    found = subprocess.run([sys.executable, "-c", _ELSEWHERE], input=pickled, capture_output=True, check=True)
    assert found.stdout == b"mmm\n"
    with pytest.raises(RecipeError, match="must be one of shout, whisper"):
        VOICES.get("hum")
    assert pickle.loads(pickle.dumps(ShoutConfig(name="shout", loudness=2))) == ShoutConfig(name="shout", loudness=2)
