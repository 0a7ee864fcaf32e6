"""Causal language models of transformers, such as GPT-2 and Llama: texts → logits of the token that comes next.

Only the architecture is made here, from what transformers keeps as `config.json`, with weights drawn as the library
draws them. Trained weights are a base, or a start, like any network's. Nothing is fetched, and code in a folder is not
run.

Classes are the last tokens of the data: all; all but padding and what is unknown; or all but padding, and then they
are the model's tokens, each of which is one more in the data (`data.next_token`): a pretrained model's token 0 is
seldom padding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.errors import SettingError
from models.networks.foreign import of_factory
from models.networks.named import library
from models.networks.spec import PADDING
from models.settings import Scalar, Setting, Text

NAME, CONFIG = "causal-lm", "config"
KEY = f"{NAME}-{CONFIG}"
_FILE = "config.json"
_MOST = 1 << 18  # characters of a configuration
_NO_CLASSES = 2  # tokens that are never an answer, at most: padding, and what a vocabulary has not


class NextToken(nn.Module):
    """Tokens (N, T), filled up with padding at their ends → logits (N, classes) of the token after the last.

    Args:
        model: of transformers, whose later positions see the earlier ones alone, so padding need not be masked.
        classes: which of its tokens are classes.
        shift: what a token of the data is more than the model's; padding, which no answer depends on, is any.
    """

    def __init__(self, model: Any, classes: range, shift: int = 0) -> None:
        super().__init__()
        self.model, self._classes, self._shift = model, classes, shift

    def forward(self, tokens_NT: Tensor) -> Any:
        """Logits."""
        places_T = torch.arange(tokens_NT.shape[1], device=tokens_NT.device)
        last_N1 = (tokens_NT.ne(PADDING) * places_T).amax(1, keepdim=True)
        chosen_NT1 = (places_T == last_N1).unsqueeze(2)

        def choose(layer: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            del layer
            return ((inputs[0] * chosen_NT1).sum(1, keepdim=True),)

        # Before the head, which has as many outputs as there are tokens; what follows it is the model's own.
        hook = self.model.get_output_embeddings().register_forward_pre_hook(choose)
        try:
            read_NT = (tokens_NT - self._shift).clamp(min=0) if self._shift else tokens_NT
            logits_N1V = self.model(read_NT, use_cache=False).logits
        finally:
            hook.remove()
        return logits_N1V[:, 0, self._classes.start : self._classes.stop]


def causal_lm(input_shape: tuple[int, ...], classes: int, vocabulary: int, config: str) -> nn.Module:
    """Make a causal language model, in float32.

    Args:
        input_shape: (length,).
        classes: number of the data's last tokens that are answers.
        vocabulary: number of the data's tokens; the model may have more.
        config: text of `config.json`.

    Raises:
        SettingError: transformers is not installed; the data's answers are not its tokens; (key causal-lm-config) it is
            no causal language model's, or the model has too few tokens or positions.
    """
    if not 0 <= vocabulary - classes <= _NO_CLASSES or not vocabulary:
        allowed = (
            f"a network for these data: {NAME} says which token comes next, so all of the data's tokens but padding "
            f"and unknown are classes; these have {vocabulary} tokens, {classes} classes"
        )
        raise SettingError("model", NAME, allowed)
    transformers, fields = library("transformers", NAME), _fields(config)
    configs = transformers.models.auto.configuration_auto.CONFIG_MAPPING
    known = transformers.models.auto.modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    kind = fields.get("model_type")
    if not isinstance(kind, str) or kind not in known:
        raise _refused(f"a causal language model's; model_type = {str(kind)[:40]!r} is none of transformers'")
    try:
        made = configs[kind].from_dict(fields)
        if getattr(made, "is_decoder", True) is False:
            raise _refused(f"a causal language model's; this {kind} sees what comes after (is_decoder = false)")
        model = transformers.AutoModelForCausalLM.from_config(made, dtype=torch.float32, trust_remote_code=False)
        tokens, positions = int(made.vocab_size), getattr(made, "max_position_embeddings", None)
    except SettingError:
        raise
    except Exception as error:  # whatever transformers raises at sizes that do not fit
        said = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise _refused(f"one that transformers can make a model of; {said}") from error
    shift = int(vocabulary - classes == 1)
    if tokens < vocabulary - shift:
        raise _refused(f"of a model with all {vocabulary - shift} tokens of the data; vocab_size is {tokens}")
    if isinstance(positions, int) and positions < input_shape[0]:
        raise _refused(f"of a model for texts of {input_shape[0]} tokens; it has {positions} positions")
    return NextToken(model, range(vocabulary - classes - shift, vocabulary - shift), shift)


def written_out(options: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """The options with the text of `config.json` in place of its folder: devices need no such file, and read none.

    Raises:
        SettingError: (key causal-lm-config) there is none, or it is no JSON.
    """
    told = str(options.get(CONFIG, ""))
    if not told.lstrip().startswith("{"):
        place = Path(told).expanduser()
        place = place / _FILE if place.is_dir() else place
        if not told or not place.is_file():
            raise _refused(f"the text of a {_FILE}, or a folder that has one, as transformers saves it", told)
        try:
            with place.open(encoding="utf-8") as stream:
                told = stream.read(_MOST + 1)
        except (OSError, UnicodeDecodeError) as error:
            raise _refused(f"a readable {_FILE} ({error})", told) from None
    return {**options, CONFIG: json.dumps(_fields(told), sort_keys=True)}


def _fields(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text) if len(text) <= _MOST else None
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise _refused(f"a JSON object of at most {_MOST} characters, the text of a {_FILE}", text)
    return found


def _refused(allowed: str, told: str = "") -> SettingError:
    return SettingError(KEY, told[:80] or _FILE, allowed)


CAUSAL_LM = replace(
    of_factory(causal_lm),
    OPTIONS={
        CONFIG: Setting(
            "",
            f"architecture: a folder that transformers saved, of whose `{_FILE}` the text is sent, or that text",
            Text(f"a folder with {_FILE}, or its text"),
        )
    },
    written_out=written_out,
)
