"""The ledger's tables as they are now; orchestrator/migrations brings older ledgers here, step by step."""

import sqlalchemy as sa

REVISION = "0004"  # of the newest migration; a ledger of a revision that is not known is refused

metadata = sa.MetaData()

runs = sa.Table(
    "runs",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("recipe", sa.JSON, nullable=False),
    sa.Column("recipe_sha256", sa.String, nullable=False),
    sa.Column("code_sha256", sa.String, nullable=False),
    sa.Column("data_sha256", sa.JSON, nullable=False),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("notes", sa.JSON, nullable=False),
    sa.Column("peak_memory_bytes", sa.JSON, nullable=False),
    sa.Column("started_at", sa.Float, nullable=False),
    sa.Column("finished_at", sa.Float),
    # Who took the lease last: an attempt that is repeated sees by it that it was heard.
    sa.Column("lease_holder", sa.String),
    # Counts phases and versions in the order of their writing, which a clock that jumps cannot upset.
    sa.Column("sequence", sa.BigInteger, nullable=False, server_default="0"),
)
stages = sa.Table(
    "stages",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("kind", sa.String, nullable=False),
    sa.Column("position", sa.Integer, nullable=False),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("seconds", sa.Float, nullable=False),
    sa.Column("result", sa.JSON, nullable=False),
)
rounds = sa.Table(
    "rounds",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("status", sa.String, nullable=False),
    sa.Column("cursor_start", sa.BigInteger, nullable=False),
    sa.Column("cursor_end", sa.BigInteger, nullable=False),
    sa.Column("metrics", sa.JSON, nullable=False),
    sa.Column("begun_at", sa.Float, nullable=False),
    sa.Column("seconds", sa.Float),
    # Set before retention removes the round's payload files.
    sa.Column("payloads_removed_at", sa.Float),
)
phases = sa.Table(
    "phases",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    sa.Column("phase", sa.String, primary_key=True),
    sa.Column("epoch", sa.BigInteger, nullable=False),
    sa.Column("output", sa.JSON, nullable=False),
    sa.Column("finished_at", sa.Float, nullable=False),
    sa.Column("sequence", sa.BigInteger),
)
versions = sa.Table(
    "versions",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("model", sa.String, primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("uri", sa.String, nullable=False),
    sa.Column("stage", sa.String, nullable=False),
    sa.Column("round", sa.Integer, nullable=False),
    sa.Column("published_at", sa.Float, nullable=False),
    sa.Column("sequence", sa.BigInteger),
    # {"model", "number", "sha256"}, kept when the files go; the manifest says it until then.
    sa.Column("parent", sa.JSON(none_as_null=True)),
    sa.Column("removed_at", sa.Float),
)
checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("step", sa.BigInteger, primary_key=True),
    sa.Column("uri", sa.String, nullable=False),
    sa.Column("sha256", sa.String, nullable=False),
    sa.Column("removed_at", sa.Float),
)
comparisons = sa.Table(
    "comparisons",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("collection", sa.String, primary_key=True),
    sa.Column("position", sa.Integer, primary_key=True),
    sa.Column("prompt_id", sa.String, nullable=False),
    sa.Column("prompt", sa.JSON, nullable=False),
    sa.Column("responses", sa.JSON, nullable=False),
    sa.Column("preferences", sa.JSON, nullable=False),
    sa.Column("source", sa.String, nullable=False),
    sa.Column("held_out", sa.Boolean, nullable=False),
    sa.Column("policy_version", sa.JSON, nullable=False),
    # Responses by place, best first, as they were ranked; their pairs are among the preferences.
    sa.Column("rankings", sa.JSON(none_as_null=True)),
    # By preference, what is known of it: {"source", "annotator", "margin", "score_chosen", "score_rejected"}.
    sa.Column("details", sa.JSON(none_as_null=True)),
)
labels = sa.Table(
    "labels",
    metadata,
    sa.Column("run", sa.String, primary_key=True),
    sa.Column("stage", sa.String, primary_key=True),
    sa.Column("round", sa.Integer, primary_key=True),
    # Names the pair within its round, such as "p17/0-2".
    sa.Column("item", sa.String, primary_key=True),
    sa.Column("position", sa.BigInteger, nullable=False),
    # "judge" or "person"; a pair waits for its person while answered_at is null.
    sa.Column("source", sa.String, nullable=False),
    sa.Column("prompt", sa.JSON, nullable=False),
    sa.Column("first", sa.Text, nullable=False),
    sa.Column("second", sa.Text, nullable=False),
    # That the first is better; null beside a reason.
    sa.Column("probability", sa.Float),
    sa.Column("reason", sa.String),
    sa.Column("message", sa.Text),
    # Gold score of the first less that of the second, where something can tell; it never trains.
    sa.Column("gold_margin", sa.Float),
    sa.Column("annotator", sa.String),
    # How the judge was asked: selection, reading rules. With the pair, all that a replay needs.
    sa.Column("question", sa.JSON(none_as_null=True)),
    # {"verdict": ..., "judge": ..., "constitution_sha256": ...} as the judge gave them.
    sa.Column("verdict", sa.JSON(none_as_null=True)),
    sa.Column("answered_at", sa.Float),
)
