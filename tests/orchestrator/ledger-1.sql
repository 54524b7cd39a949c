-- A ledger as the first schema kept it, with a run in the middle of its second round.
BEGIN TRANSACTION;
CREATE TABLE checkpoints (
	run VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	step BIGINT NOT NULL, 
	uri VARCHAR NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	PRIMARY KEY (run, stage, step)
);
INSERT INTO "checkpoints" VALUES('old-run','ppo',1,'checkpoints/ppo/step-000001','dddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddddd');
CREATE TABLE comparisons (
	run VARCHAR NOT NULL, 
	collection VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	prompt_id VARCHAR NOT NULL, 
	prompt JSON NOT NULL, 
	responses JSON NOT NULL, 
	preferences JSON NOT NULL, 
	source VARCHAR NOT NULL, 
	held_out BOOLEAN NOT NULL, 
	policy_version JSON NOT NULL, 
	PRIMARY KEY (run, collection, position)
);
INSERT INTO "comparisons" VALUES('old-run','pairs',0,'p1','{"text": "hi"}','["a", "b"]','[[0, 1, 1.0]]','simulated:gold',0,'{"model": "sft", "number": 1, "sha256": "eeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeeee"}');
CREATE TABLE phases (
	run VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	phase VARCHAR NOT NULL, 
	epoch BIGINT NOT NULL, 
	output JSON NOT NULL, 
	finished_at FLOAT NOT NULL, 
	PRIMARY KEY (run, stage, round, phase)
);
INSERT INTO "phases" VALUES('old-run','ppo',1,'sampled',1,'{"chunks": 1}',1.79549386558813381191e+09);
INSERT INTO "phases" VALUES('old-run','ppo',1,'trained',1,'{"step": 1, "trained": true, "metrics": {"loss": 0.5}, "excluded": {}, "weights_sha256": "1111111111111111111111111111111111111111111111111111111111111111"}',1.79549386560370087626e+09);
INSERT INTO "phases" VALUES('old-run','ppo',1,'published',1,'{"number": 1, "sha256": "1111111111111111111111111111111111111111111111111111111111111111", "uri": "models/policy/v000001"}',1.79549386563142013544e+09);
INSERT INTO "phases" VALUES('old-run','ppo',2,'sampled',1,'{"chunks": 1}',1.79549386566391086582e+09);
INSERT INTO "phases" VALUES('old-run','ppo',2,'trained',1,'{"step": 2, "trained": true, "metrics": {"loss": 0.5}, "excluded": {}, "weights_sha256": "2222222222222222222222222222222222222222222222222222222222222222"}',1.79549386566711950304e+09);
INSERT INTO "phases" VALUES('old-run','ppo',2,'published',1,'{"number": 2, "sha256": "2222222222222222222222222222222222222222222222222222222222222222", "uri": "models/policy/v000002"}',1.79549386569142866137e+09);
CREATE TABLE rounds (
	run VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	cursor_start BIGINT NOT NULL, 
	cursor_end BIGINT NOT NULL, 
	metrics JSON NOT NULL, 
	begun_at FLOAT NOT NULL, 
	seconds FLOAT, 
	PRIMARY KEY (run, stage, round)
);
INSERT INTO "rounds" VALUES('old-run','ppo',1,'committed',0,8,'{"loss": 0.5}',1.79549386557251048086e+09,1.5);
INSERT INTO "rounds" VALUES('old-run','ppo',2,'open',8,16,'{}',1.79549386564840340613e+09,NULL);
CREATE TABLE runs (
	run VARCHAR NOT NULL, 
	seed BIGINT NOT NULL, 
	recipe JSON NOT NULL, 
	recipe_sha256 VARCHAR NOT NULL, 
	code_sha256 VARCHAR NOT NULL, 
	data_sha256 JSON NOT NULL, 
	epoch BIGINT NOT NULL, 
	status VARCHAR NOT NULL, 
	notes JSON NOT NULL, 
	peak_memory_bytes JSON NOT NULL, 
	started_at FLOAT NOT NULL, 
	finished_at FLOAT, 
	PRIMARY KEY (run)
);
INSERT INTO "runs" VALUES('old-run',7,'{"name": "old-run", "stages": {}}','aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa','bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb','{"prompts.jsonl": "cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc"}',1,'running','[]','{}',1.79549386549902439112e+09,NULL);
CREATE TABLE stages (
	run VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	kind VARCHAR NOT NULL, 
	position INTEGER NOT NULL, 
	status VARCHAR NOT NULL, 
	seconds FLOAT NOT NULL, 
	result JSON NOT NULL, 
	PRIMARY KEY (run, stage)
);
INSERT INTO "stages" VALUES('old-run','ppo','ppo',1,'running',0.0,'{}');
CREATE TABLE versions (
	run VARCHAR NOT NULL, 
	model VARCHAR NOT NULL, 
	number BIGINT NOT NULL, 
	sha256 VARCHAR NOT NULL, 
	uri VARCHAR NOT NULL, 
	stage VARCHAR NOT NULL, 
	round INTEGER NOT NULL, 
	published_at FLOAT NOT NULL, 
	PRIMARY KEY (run, model, number)
);
INSERT INTO "versions" VALUES('old-run','policy',1,'1111111111111111111111111111111111111111111111111111111111111111','models/policy/v000001','ppo',1,1.7954938656085655689e+09);
INSERT INTO "versions" VALUES('old-run','policy',2,'2222222222222222222222222222222222222222222222222222222222222222','models/policy/v000002','ppo',2,1.79549386568144488333e+09);
COMMIT;
