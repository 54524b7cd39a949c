"""Feedback: what judges and scorers say, and how far to trust it."""

from k8s.monitoring.board import Board, Panel, Query, Row, of_run, of_service, rate

NO_JUDGE = "a judge"
NO_ENDPOINT = "a judge behind an endpoint"


def share(part: str, whole: str, by: str = "job, instance") -> str:
    """One rate over another."""
    return f"sum by ({by}) ({part}) / sum by ({by}) ({whole})"


PAIRS = rate("trueline_judge_order_pairs_total")
VERDICTS = rate("trueline_judge_verdicts_total")

JUDGE = Row(
    "The judge",
    (
        Panel(
            "Verdicts",
            "Pairs a second by what came of them. Bad: all of one side.",
            "ops",
            (Query(f"sum by (job, instance, verdict) ({VERDICTS})", "{{instance}} {{verdict}}"),),
            needs=NO_JUDGE,
        ),
        Panel(
            "Abstentions by reason",
            "Items a second that got no answer. Good: few, and none by a failure.",
            "ops",
            (
                Query(
                    f"sum by (job, instance, method, reason) ({rate('trueline_judge_abstentions_total')})",
                    "{{method}} {{reason}}",
                ),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Abstention rate",
            "Share of pairs without a verdict. Good: below 0.1. Bad: above 0.3: the wording or the "
            "option mass asked for does not suit the model.",
            "percentunit",
            (
                Query(
                    share(rate("trueline_judge_verdicts_total", 'verdict="abstained"'), VERDICTS),
                    "{{instance}}",
                ),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Flip rate",
            "Share of pairs whose two orders prefer different responses. Good: below 0.15. Bad: above "
            "0.4: the judge prefers a place, not an answer.",
            "percentunit",
            (Query(share(rate("trueline_judge_order_flips_total"), PAIRS), "{{instance}}"),),
            needs=NO_JUDGE,
        ),
        Panel(
            "Agreement of the two orders",
            "Share of pairs whose two orders prefer the same response; the rest flips or "
            "ties. Good: above 0.7.",
            "percentunit",
            (Query(share(rate("trueline_judge_order_agreements_total"), PAIRS), "{{instance}}"),),
            needs=NO_JUDGE,
        ),
        Panel(
            "Slot bias",
            "Share of answers that prefer the first slot. Good: 0.5. Both orders are asked, so a bias "
            "costs verdicts, not truth.",
            "percentunit",
            (
                Query(
                    share(
                        rate("trueline_judge_slot_choices_total", 'slot="first"'),
                        rate("trueline_judge_slot_choices_total"),
                    ),
                    "{{instance}}",
                ),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Agreement with gold and people",
            "Share of a round's verdicts that gold or a person shares, and Cohen's kappa, which leaves out "
            "what chance explains. Good: kappa above 0.6. Bad: below 0.4: learn nothing from this judge.",
            "percentunit",
            (
                Query(of_run("trueline_judge_agreement_ratio"), "{{run}} {{stage}} {{against}}"),
                Query(of_run("trueline_judge_kappa"), "{{run}} {{stage}} {{against}} kappa"),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Calibration and length",
            "Gap between how sure verdicts are and how often they are right (good: below 0.1), and their "
            "correlation with a response's length (good: near gold's own; bad: above 0.5).",
            "short",
            (
                Query(of_run("trueline_judge_calibration_error"), "{{run}} {{stage}} {{against}}"),
                Query(of_run("trueline_judge_length_correlation"), "{{run}} {{stage}} length"),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Scores and texts",
            "Scores, critiques and revisions a second.",
            "ops",
            (
                Query(
                    f"sum by (job, instance) ({rate('trueline_judge_scores_total')})", "{{instance}} scores"
                ),
                Query(
                    f"sum by (job, instance, method) ({rate('trueline_judge_texts_total')})",
                    "{{instance}} {{method}}",
                ),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Calls and tokens of the judge model",
            "What judging costs: requests and tokens a second.",
            "ops",
            (
                Query(rate("trueline_judge_calls_total"), "{{instance}} calls"),
                Query(rate("trueline_judge_uncounted_calls_total"), "{{instance}} without token counts"),
                Query(rate("trueline_judge_tokens_total"), "{{instance}} {{kind}} tokens"),
            ),
            needs=NO_JUDGE,
        ),
        Panel(
            "Constitution",
            "Principles in force, and the digest that verdicts name. Bad: replicas with different digests.",
            "short",
            (
                Query(of_service("trueline_judge_principles"), "{{instance}} principles"),
                Query(of_service("trueline_judge_constitution_info"), "{{instance}} {{sha256}}"),
            ),
            "stat",
            NO_JUDGE,
        ),
        Panel(
            "Reloads of the constitution",
            "By what came of them, in the range shown. Bad: refused ones: the file is "
            "broken and the old one is in force.",
            "short",
            (
                Query(
                    f"increase({of_service('trueline_judge_constitution_reloads_total')}[$__rate_interval])",
                    "{{instance}} {{outcome}}",
                ),
            ),
            needs="a reload",
        ),
    ),
)

SCORERS = Row(
    "Scorers",
    (
        Panel(
            "Items scored",
            "Items a second by scorer and outcome. Bad: any outcome but scored.",
            "ops",
            (
                Query(
                    f"sum by (job, instance, scorer, outcome) ({rate('trueline_reward_items_total')})",
                    "{{scorer}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Mean score of the last batch",
            "Raw as the scorer said it and normalised as it trains.",
            "short",
            (Query(of_service("trueline_reward_score_mean"), "{{scorer}} {{form}}"),),
        ),
        Panel(
            "Spread of the last batch",
            "Standard deviation. Bad: near 0: the scorer tells answers no longer apart.",
            "short",
            (Query(of_service("trueline_reward_score_stddev"), "{{scorer}} {{form}}"),),
        ),
        Panel(
            "Median score",
            "By the histogram's buckets, over the last minutes.",
            "short",
            (
                Query(
                    f"histogram_quantile(0.5, sum by (job, instance, scorer, form, le) "
                    f"({rate('trueline_reward_score_bucket')}))",
                    "{{scorer}} {{form}}",
                ),
            ),
        ),
        Panel(
            "Disagreement of an ensemble",
            "95% of the items have members that spread by at most this, in normalised scores. Bad: it climbs "
            "while training goes on: answers have left what the members learned from.",
            "short",
            (
                Query(
                    "histogram_quantile(0.95, sum by (job, instance, scorer, le) "
                    f"({rate('trueline_reward_disagreement_bucket')}))",
                    "{{scorer}}",
                ),
            ),
            needs="an ensemble",
        ),
        Panel(
            "Tokens that scorers read",
            "Tokens a second; rules read none.",
            "ops",
            (Query(rate("trueline_reward_tokens_total"), "{{scorer}}"),),
        ),
        Panel(
            "Truncated items",
            "Share of items longer than the scorer's context: it saw their end only. Good: 0.",
            "percentunit",
            (
                Query(
                    share(
                        rate("trueline_reward_truncated_items_total"),
                        rate("trueline_reward_items_total"),
                        "job, instance, scorer",
                    ),
                    "{{scorer}}",
                ),
            ),
        ),
    ),
)

FEEDBACK = Board(
    "trueline-feedback",
    "Trueline: feedback",
    "What judges and scorers say of responses, and how far to trust it.",
    "trueline_build_info",
    (JUDGE, SCORERS),
)
