"""Training: does it learn, does it drift, is it hacking its reward?"""

from k8s.monitoring.board import Board, Query, Row, of_run
from k8s.monitoring.result_rows import EVALUATED, PAIRS
from k8s.monitoring.run_panels import numbers, panel

NO_GOLD = "a gold scorer"
NO_BUDGET = "a KL budget"


WHERE = Row(
    "Where the run stands",
    (
        panel(
            "Stage",
            "short",
            "The stage that runs now. One for each run; none means that no run is driven.",
            Query(of_run("trueline_stage_info"), "{{run}} {{stage}} ({{kind}})"),
            kind="stat",
        ),
        panel(
            "Round",
            "short",
            "Newest committed step or round of each stage; the dashed end is what is planned. "
            "A line that is flat for long is a run that stands still.",
            numbers("trueline_round", "done"),
            numbers("trueline_rounds_planned", "planned"),
        ),
        panel(
            "Time since the run last got on",
            "s",
            "Seconds since a service last answered. Good: it saws between 0 and "
            "the length of a step. Bad: it climbs; see TruelineNoProgress in the runbook.",
            Query(f"time() - {of_run('trueline_last_progress_timestamp_seconds')}", "{{run}}"),
        ),
        panel(
            "Rounds by what became of them",
            "short",
            "Committed rounds only are good; rolled_back are those behind "
            "the last version within the KL budget.",
            numbers("trueline_rounds_total", "{{status}}"),
        ),
        panel(
            "Seconds of a round",
            "s",
            "Newest round and the median of the last 20. Good: level. Responses that grow "
            "longer make rounds longer too.",
            numbers("trueline_round_seconds", "newest"),
            numbers("trueline_round_seconds_median", "median"),
        ),
        panel(
            "Seconds by phase",
            "s",
            "Where a round's time goes; phases overlap. Sampling is most of it in most runs.",
            numbers("trueline_phase_seconds", "{{phase}}"),
            needs="a stage in rounds",
        ),
        panel(
            "Idle share",
            "percentunit",
            "Share of a round in which no model computed. Good: a few percent. Bad: above "
            "a fifth: too few prompts in a chunk, or too few replicas.",
            numbers("trueline_round_idle_ratio", ""),
            needs="a stage in rounds",
        ),
        panel(
            "Excluded samples",
            "short",
            "Rows that no step may learn from, by cause. Good: none, or what is too "
            "long. Bad: scores that are missing or no numbers.",
            numbers("trueline_excluded_samples_total", "{{cause}}"),
            needs="a row that was left out",
        ),
        panel(
            "Retries by service",
            "short",
            "Tries that failed and were repeated. Steps in it are restarts and outages.",
            Query(of_run("trueline_retries_total"), "{{run}} {{service}}"),
            needs="a call that failed",
        ),
    ),
)

LEARNS = Row(
    "Does it learn?",
    (
        panel(
            "Loss",
            "short",
            "Mean loss of a step: supervised, reward model and preference stages. Good: it falls and "
            "levels out. Bad: it rises, or is absent (not finite).",
            numbers("trueline_loss", ""),
        ),
        panel(
            "Reward",
            "short",
            "Mean reward of the rollouts: raw as scored, normalised, and shaped by penalties and KL. "
            "Good: rises and flattens. Raw and shaped that part: the KL or a penalty eats the gain.",
            numbers("trueline_reward_mean", "{{form}}"),
            needs="a stage that scores",
        ),
        panel(
            "Spread of the reward",
            "short",
            "Standard deviation over the rollouts. Bad: near 0 while the reward is not "
            "at its best: nothing is left to tell answers apart.",
            numbers("trueline_reward_stddev", "{{form}}"),
            needs="a stage that scores",
        ),
        panel(
            "Quantiles of the reward",
            "short",
            "5%, 50% and 95% of the rollouts. Bad: the best runs away from the "
            "median: a few answers have found a hole in the reward.",
            numbers("trueline_reward_quantile", "{{form}} {{quantile}}"),
            needs="a PPO stage",
        ),
        panel(
            "Value function",
            "percentunit",
            "Share of the returns' variance that the critic foretold. Good: towards 1. "
            "Below 0 it does harm: give it warm-up rounds or a higher learning rate.",
            numbers("trueline_value_explained_variance_ratio", ""),
            needs="a PPO stage",
        ),
        panel(
            "Value and return",
            "short",
            "What the critic foretold and what came. Good: together.",
            numbers("trueline_value_mean", "value"),
            numbers("trueline_return_mean", "return"),
            needs="a PPO stage",
        ),
        panel(
            "Policy and value loss",
            "short",
            "Mean per token. The policy's hovers around 0; a value loss that rises "
            "for long means that returns outrun the critic.",
            numbers("trueline_policy_loss", "policy"),
            numbers("trueline_value_loss", "value"),
            needs="a PPO stage",
        ),
        panel(
            "Gradient norm",
            "short",
            "Before clipping. Good: level or falling. Bad: spikes, or far above the clip in every update.",
            numbers("trueline_gradient_norm", "{{model}}"),
        ),
        panel(
            "Learning rate",
            "short",
            "Of the last update; as the schedule says.",
            numbers("trueline_learning_rate", "{{model}}"),
        ),
    ),
)

DRIFTS = Row(
    "Does it drift?",
    (
        panel(
            "KL to the reference",
            "short",
            "Nats per sequence by both estimators, and the budgets. Good: rises slowly "
            "below the soft budget. Bad: above it, or at 0: nothing is learned.",
            numbers("trueline_kl_reference_nats", "{{estimator}}"),
            needs="a PPO stage",
        ),
        panel(
            "KL budgets",
            "short",
            "Nats per sequence: soft warns, hard rolls back and ends the stage.",
            numbers("trueline_kl_budget_nats", "{{limit}}"),
            needs=NO_BUDGET,
        ),
        panel(
            "KL per token",
            "short",
            "Nats per token: tells drift from longer answers.",
            numbers("trueline_kl_reference_per_token_nats", "{{estimator}}"),
            needs="a PPO stage",
        ),
        panel(
            "KL coefficient",
            "short",
            "Weight of the KL in the reward. An adaptive one that only rises cannot hold the "
            "policy: lower the learning rate.",
            numbers("trueline_kl_coefficient", ""),
            needs="a PPO stage",
        ),
        panel(
            "KL of the updates",
            "short",
            "Nats per token that a round's updates moved the policy. Good: below 0.02. Bad: "
            "above 0.1: too many epochs or too high a rate.",
            numbers("trueline_kl_update_nats", ""),
            needs="a PPO stage",
        ),
        panel(
            "Clipped tokens",
            "percentunit",
            "Share of tokens whose gradient a clip removed. Good: below 0.2. At 0 the "
            "updates may be too small.",
            numbers("trueline_clipped_tokens_ratio", "{{clip}}"),
            needs="a PPO stage",
        ),
        panel(
            "Probability ratio",
            "short",
            "New to old probability per token: mean and variance. Good: mean 1, little variance.",
            numbers("trueline_probability_ratio_mean", "mean"),
            numbers("trueline_probability_ratio_variance", "variance"),
            needs="a PPO stage",
        ),
        panel(
            "Entropy",
            "short",
            "Nats per response token. Good: falls slowly. Bad: near 0: every answer is the same "
            "one, and nothing new is tried.",
            numbers("trueline_entropy_nats", ""),
            needs="a PPO stage",
        ),
        panel(
            "Sampler against trainer",
            "short",
            "KL per token between the probabilities of sampling and of training "
            "for the same weights. Good: below 0.001. Bad: the two compute different models.",
            numbers("trueline_mismatch_kl_nats", "{{estimator}}"),
            numbers("trueline_mismatch_largest_nats", "largest"),
            needs="a PPO stage",
        ),
        panel(
            "Effective sample size",
            "percentunit",
            "Share of the tokens that the mismatch leaves of a batch. Good: above 0.99.",
            numbers("trueline_mismatch_effective_sample_ratio", ""),
            needs="a PPO stage",
        ),
    ),
)

HACKS = Row(
    "Is it hacking?",
    (
        panel(
            "Gold and proxy, held out",
            "short",
            "Gold is what is wanted and never trains; the proxy is what trains. "
            "Good: both rise. Bad: the proxy rises while gold falls.",
            numbers("trueline_gold_score", "gold {{bound}}"),
            numbers("trueline_proxy_score", "proxy"),
            needs=NO_GOLD,
        ),
        panel(
            "Slopes per round",
            "short",
            "Of gold and proxy over the last five measured rounds, with the error of "
            "gold's. Bad: gold below 0 by more than its error, proxy above 0.",
            numbers("trueline_gold_slope_per_round", "gold"),
            numbers("trueline_gold_slope_error_per_round", "error of gold's"),
            numbers("trueline_proxy_slope_per_round", "proxy"),
            needs=NO_GOLD,
        ),
        panel(
            "Distance from gold's peak",
            "short",
            "How far gold lies below its peak in standard errors, and the proxy "
            "above what it was there. Bad: both well above 0.",
            numbers("trueline_gold_below_peak_ratio", "gold below, errors"),
            numbers("trueline_proxy_above_peak", "proxy above"),
            needs=NO_GOLD,
        ),
        panel(
            "Response length",
            "short",
            "Mean tokens of a response. Bad: it grows with the reward: length is being rewarded.",
            numbers("trueline_response_length_mean_tokens", ""),
            needs="a PPO stage",
        ),
        panel(
            "Reward and length",
            "short",
            "Correlation of raw score and length over a batch. Bad: towards 1: the reward pays for length.",
            numbers("trueline_reward_length_correlation", ""),
            needs="a PPO stage",
        ),
        panel(
            "How responses end",
            "percentunit",
            "Shares that ended themselves, were cut off, and lack an end-of-text token. "
            "Good: almost all end themselves.",
            numbers("trueline_response_ended_ratio", "ended"),
            numbers("trueline_response_truncated_ratio", "truncated"),
            numbers("trueline_response_missing_eos_ratio", "no end of text"),
            needs="a PPO stage",
        ),
        panel(
            "Repetition",
            "percentunit",
            "Share of a response's 3-grams that it has said before. Bad: it rises with the reward.",
            numbers("trueline_response_repetition_ratio", ""),
            needs="a PPO stage",
        ),
        panel(
            "Distinct n-grams",
            "percentunit",
            "Distinct tokens and pairs of a batch over all of them. Bad: it falls far: "
            "all answers become one.",
            numbers("trueline_response_distinct_ratio", "{{n}}-grams"),
            needs="a PPO stage",
        ),
        panel(
            "Clipped scores",
            "percentunit",
            "Share of scores that the score clip moved. Bad: above a few percent: the "
            "reward has left the range it was fitted on.",
            numbers("trueline_reward_clipped_ratio", ""),
            needs="a score clip",
        ),
    ),
)

TRAINING = Board(
    "trueline-training",
    "Trueline: training",
    "Is it learning, drifting, hacking? Numbers of each stage's newest committed round, from the ledger.",
    "trueline_run_info",
    (WHERE, LEARNS, DRIFTS, HACKS, PAIRS, EVALUATED),
)
