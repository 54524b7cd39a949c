"""TRL's losses and gradients on a model and pairs of ours; runs in the peer's environment, which holds TRL.

    PYTHON tests/trainer/trl_losses.py SPEC.json OUT.safetensors

SPEC names the directories of policy, reference and reward model, the pairs as token ids, the mismatched
responses of KTO and the losses. OUT holds each loss's value and gradients: "ipo/loss", "ipo/lm_head.weight".
"""

import json
import os
import sys
import tempfile
from pathlib import Path

os.environ.update(HF_HUB_OFFLINE="1", TRL_EXPERIMENTAL_SILENCE="1")


def main():
    from safetensors.torch import save_file

    spec = json.loads(Path(sys.argv[1]).read_text())
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name, loss in spec["dpo_losses"].items():
            found |= results(f"{name}/", *dpo(spec, loss, scratch))
        found |= results("kto/", *kto(spec, scratch))
        found |= results("reward/", *reward(spec, scratch))
    save_file(found, sys.argv[2])


def results(prefix, trainer, batch):
    """The trainer's own loss of the batch, and its gradients."""
    model = trainer.model
    model.zero_grad()
    loss = trainer.compute_loss(model, batch)
    loss.backward()
    gradients = {f"{prefix}{name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {f"{prefix}loss": loss.detach().reshape(1), **gradients}


def settings(kind, scratch, rows, **own):
    given = {"output_dir": scratch, "use_cpu": True, "bf16": False, "gradient_checkpointing": False}
    given |= {"report_to": "none", "disable_tqdm": True, "per_device_train_batch_size": rows}
    return kind(**given, **own)


def parts(spec, rows):
    """What every trainer asks for; the data set only has to be there, since the batches are ours."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(spec["policy"])
    policy, reference = (AutoModelForCausalLM.from_pretrained(spec[x]) for x in ("policy", "reference"))
    return tokenizer, policy, reference, Dataset.from_list(rows)


ANSWERS = {"prompt": "w1", "chosen": " w2", "rejected": " w3"}


def dpo(spec, loss, scratch):
    from trl import DPOConfig, DPOTrainer

    tokenizer, policy, reference, data = parts(spec, [ANSWERS] * 2)
    own = {"beta": spec["beta"], "loss_type": [loss], "label_smoothing": spec["label_smoothing"]}
    args = settings(DPOConfig, scratch, len(spec["pairs"]), **own)
    trainer = DPOTrainer(policy, reference, args, train_dataset=data, processing_class=tokenizer)
    return trainer, trainer.data_collator(spec["pairs"])


def kto(spec, scratch):
    from trl import KTOConfig, KTOTrainer

    unpaired = [{"prompt": "w1", "completion": f" w{i}", "label": bool(i)} for i in range(2)]
    tokenizer, policy, reference, data = parts(spec, unpaired)
    args = settings(KTOConfig, scratch, 2 * len(spec["pairs"]), beta=spec["beta"])
    trainer = KTOTrainer(policy, reference, args, train_dataset=data, processing_class=tokenizer)
    rows = []
    for pair, partner in zip(spec["pairs"], spec["partners"], strict=True):
        for side, label in (("chosen_ids", True), ("rejected_ids", False)):
            mismatched = spec["pairs"][partner][side]
            row = {"prompt_ids": pair["prompt_ids"], "completion_ids": pair[side], "label": label}
            rows.append({**row, "KL_completion_ids": mismatched})
    return trainer, trainer.data_collator(rows)


def reward(spec, scratch):
    from transformers import AutoModelForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    tokenizer, _, _, data = parts(spec, [ANSWERS] * 2)
    model = AutoModelForSequenceClassification.from_pretrained(spec["scalar"], num_labels=1)
    model.config.pad_token_id = tokenizer.pad_token_id
    own = {"center_rewards_coefficient": spec["centering"]}
    args = settings(RewardConfig, scratch, len(spec["exchanges"]), **own)
    trainer = RewardTrainer(model, args, train_dataset=data, processing_class=tokenizer)
    return trainer, trainer.data_collator(spec["exchanges"])


if __name__ == "__main__":
    main()
