"""Caption with any image-text-to-text or vision-encoder-decoder checkpoint that transformers loads, in this process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from curation.engines import Answered, CaptionRequest, Failure, Generated, batches_of, unheard
from curation.engines.guard import answer_batch, answer_in_batches, describe
from curation.engines.model_files import Checkpoint, DType, load_arguments, pick_device, pick_dtype
from curation.engines.settings import InProcessConfig
from curation.engines.writing_model import WritingModel
from pairmill.errors import UserError

if TYPE_CHECKING:
    import torch

    from curation.recaption import RecaptionConfig


class TransformersCaptionerConfig(InProcessConfig):
    """How the checkpoint runs."""


class TransformersCaptioner(WritingModel):
    """Any image-text-to-text or vision-encoder-decoder checkpoint that transformers loads, in the stage's own actor.

    The model type in a checkpoint's configuration gives its family.  Prompts go through the processor's chat template
    if it has one, else before the text to write, as in BLIP.  A vision-encoder-decoder takes no prompt and can write
    one text per image.

    A score depends in its last bits on the images of its batch, which a shard always cuts alike; a text seldom does (of
    49 drawings with the sample captioner none, greedy or sampled, in float32 and in bfloat16).

    Raises UserError if the checkpoint cannot be loaded, or is of neither family.
    """

    Config = TransformersCaptionerConfig
    libraries = ("sentencepiece", "timm", "tokenizers", "torch", "torchvision", "transformers")

    @classmethod
    def load(
        cls, config: TransformersCaptionerConfig, section: RecaptionConfig, checkpoint: Checkpoint
    ) -> TransformersCaptioner:
        """The model on its device.  Raises UserError also for prompts that the model cannot take."""
        engine = cls(
            checkpoint,
            batch_size=config.batch_size,
            dtype=config.dtype,
            device=config.device,
            temperature=section.temperature,
            top_p=section.top_p,
        )
        texts = [prompt.text for prompt in section.resolved_prompts().values()]
        if not engine.takes_prompts and texts != [""]:
            raise UserError(
                "recaption.prompts must be one empty prompt for a vision-encoder-decoder model, which takes none",
                value=f"{section.model}, recaption.prompts {sorted(section.prompts)}",
                fix='set recaption.prompts to {short: ""}',
            )
        return engine

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        batch_size: int,
        dtype: DType = "auto",
        device: str = "auto",
        temperature: float = 0.0,
        top_p: float = 1.0,
    ) -> None:
        from transformers import (
            AutoConfig,
            AutoImageProcessor,
            AutoModelForImageTextToText,
            AutoProcessor,
            AutoTokenizer,
            VisionEncoderDecoderModel,
        )
        from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

        from curation.engines.decoding import prepare

        self.rows_per_call = batch_size
        self._batch_size = batch_size
        self._temperature = temperature
        self._top_p = top_p
        self._device = pick_device(device)
        where = load_arguments(checkpoint)
        try:
            config = AutoConfig.from_pretrained(checkpoint.source, **where)
            self.takes_prompts = config.model_type != "vision-encoder-decoder"
            if self.takes_prompts and config.model_type not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
                raise UserError(
                    "recaption.model must be an image-text-to-text or vision-encoder-decoder checkpoint",
                    value=f"{checkpoint.source} is {config.model_type!r}",
                    fix="choose another model, or serve it and set recaption.engine: openai",
                )
            loader = AutoModelForImageTextToText if self.takes_prompts else VisionEncoderDecoderModel
            model = loader.from_pretrained(checkpoint.source, dtype=pick_dtype(dtype, self._device), **where)
            if self.takes_prompts:
                self._processor = AutoProcessor.from_pretrained(checkpoint.source, **where)
                self._tokenizer = getattr(self._processor, "tokenizer", self._processor)
            else:
                self._processor = AutoImageProcessor.from_pretrained(checkpoint.source, **where)
                self._tokenizer = AutoTokenizer.from_pretrained(checkpoint.source, **where)
        except (OSError, ValueError, ImportError) as error:
            raise UserError(
                "recaption.model must load with transformers",
                value=f"{checkpoint.source}: {describe(error)}",
                fix="check the files of the checkpoint, or install the package that the message names",
            ) from error
        self._model = prepare(model.to(self._device))
        self._has_template = bool(getattr(self._processor, "chat_template", None))
        # Decoder-only models continue the right end of each row, so padding has to be on the left.
        self._tokenizer.padding_side = "left"
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token

    def caption(self, requests: Sequence[CaptionRequest], answered: Answered = unheard) -> list[Generated | Failure]:
        """One answer per request, in order.  answered: gets each batch."""

        def answer(batch: Sequence[int]) -> Sequence[Generated | Failure]:
            alike = [requests[at] for at in batch]
            return answer_batch(alike, self._generate, fault="engine.recaption", recover=self._free_memory)

        return answer_in_batches(self.batches(requests), answer, answered)

    def batches(self, requests: Sequence[CaptionRequest]) -> list[list[int]]:
        """The requests that are computed together: those that are alike, in their order."""
        return batches_of([self._batch_key(request) for request in requests], self._batch_size)

    def _batch_key(self, request: CaptionRequest) -> tuple[int, str]:
        # Models from before chat templates, such as BLIP, count positions from the left, padding included: next to a
        # longer prompt, a shorter one would give another text.
        return request.max_new_tokens, "" if self._has_template else request.prompt

    def _generate(self, requests: Sequence[CaptionRequest]) -> list[Generated]:
        return self._written(self._inputs(requests), requests)

    def _inputs(self, requests: Sequence[CaptionRequest]) -> dict[str, torch.Tensor]:
        images = [request.image for request in requests]
        if not self.takes_prompts:
            made = self._processor(images=images, return_tensors="pt")
        elif self._has_template:
            made = self._processor.apply_chat_template(
                [_conversation(request) for request in requests],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs={"padding": True},
            )
        else:
            prompts = [self._with_image_token(request.prompt) for request in requests]
            made = self._processor(images=images, text=prompts, padding=True, return_tensors="pt")
        return {
            name: value.to(self._device, self._model.dtype if value.is_floating_point() else value.dtype)
            for name, value in made.items()
        }

    def _with_image_token(self, prompt: str) -> str:
        """`prompt` after the image's placeholder, for processors that do not insert it themselves."""
        token: str | None = getattr(self._processor, "image_token", None)
        inserts_itself = hasattr(self._processor, "num_query_tokens")  # BLIP-2 and InstructBLIP
        if token is None or inserts_itself or str(token) in prompt:
            return prompt
        return f"{token}\n{prompt}"


def _conversation(request: CaptionRequest) -> list[dict[str, Any]]:
    content = [{"type": "image", "image": request.image}, {"type": "text", "text": request.prompt}]
    return [{"role": "user", "content": content}]
