"""Training logs found in public places: a few lines of each, and what a person who reads them finds.

Figures, the names and order of fields, and prefixes are as found. Left out, without a mark, are paths, hosts, other
lines, some fields of dictionaries and some blanks of bars. Where a page shows a log as a terminal does, carriage
returns and colours are put back.
"""

from msgspec import Struct

CEREBRAS = "cerebras"
HUGGING_FACE = "hugging face trainer"
TORCHTITAN = "torchtitan"
MEGATRON = "megatron"
TRAINER_STATE = "trainer_state.json"


class Sample(Struct, frozen=True, kw_only=True):
    """Some lines of one log.

    A step line names the loss of one step or of the steps since the one before. Evaluation lines are none. Of a line
    that several ranks or handlers print, one counts, also where its rates differ in the last digits.
    """

    source: str  # where it was found: a repository and an issue, a pull request or a file
    stack: str  # what printed it
    text: str  # lines, separated by newlines
    num_runs: int  # runs that the lines belong to; a resumed run is another one
    num_lines: int  # step lines of all runs
    first: tuple[int | None, float | None] | None = None  # step and loss of the first step line; None where not said
    last: tuple[int | None, float | None] | None = None  # step and loss of the last step line
    num_evaluation_lines: int = 0  # lines of evaluations among them, with the same rule for several ranks
    global_batch_size: int | None = None  # samples per step, where a line says so
    # whether lines were wrapped, cut or marked up by whoever published them, so that a reader that goes by lines may
    # find fewer than a person does and tell damage
    is_broken: bool = False


# A line of its own for every field would double the length of this file.
# fmt: off


_CEREBRAS = (
    # TensorFlow, R_1.6: no rates in samples, and no period at the end.
    Sample(source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/example-programs.md at f3764911",
        stack=CEREBRAS, num_runs=1, num_lines=3, first=(100, 9.390625), last=(1000, 7.6171875), text="""\
INFO:tensorflow:global step 100: loss = 9.390625 (5.6 steps/sec)
INFO:tensorflow:global step 200: loss = 8.921875 (6.48 steps/sec)
INFO:tensorflow:global step 1000: loss = 7.6171875 (6.22 steps/sec)
INFO:root:Training complete. Completed 1024000 sample(s) in 160.75317454338074 seconds
INFO:root:Taking final checkpoint at step: 1000"""),
    # R_1.7: the pipelined mode, of which only the end is shown.
    Sample(
        source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/running-a-model-or-program.md at 9d4a14c4",
        stack=CEREBRAS, num_runs=1, num_lines=2, first=(9950, 1.69782), last=(10000, 1.65959), text="""\
2023-03-15 19:01:23,008 INFO:   | Train Device=xla:0, Step=9950, Loss=1.69782, Rate=149740.06 samples/sec,\
 GlobalRate=34681.55 samples/sec
2023-03-15 19:01:23,061 INFO:   | Train Device=xla:0, Step=10000, Loss=1.65959, Rate=132247.02 samples/sec,\
 GlobalRate=34805.53 samples/sec
2023-03-15 19:01:23,062 INFO:   Saving checkpoint at global step 10000
2023-03-15 19:01:28,754 INFO:   Saved checkpoint at global step: 10000
2023-03-15 19:01:28,754 INFO:   Training Complete. Completed 1280000 sample(s) in 42.468820095062256 seconds.
2023-03-15 19:01:32,175 INFO:   Monitoring is over without any issue"""),
    # R_1.9.2: the last two messages on one line.
    Sample(source="github.com/argonne-lcf/ai-science-training-series 07_AITestbeds/Cerebras/gpt-j.md", stack=CEREBRAS,
        num_runs=1, num_lines=2, first=(100, 9.1875), last=(200, 8.375), text="""\
      2023-11-10 20:34:42,548 INFO:   Finished staging the appliance
      2023-11-10 20:34:42,552 INFO:   Beginning appliance run
      2023-11-10 20:40:15,694 INFO:   | Train Device=xla:0, Step=100, Loss=9.18750, Rate=19.81 samples/sec,\
 GlobalRate=19.81 samples/sec
      2023-11-10 20:45:49,090 INFO:   | Train Device=xla:0, Step=200, Loss=8.37500, Rate=19.80 samples/sec,\
 GlobalRate=19.80 samples/sec
      2023-11-10 20:45:49,092 INFO:   Saving checkpoint at global step 200
      2023-11-10 20:56:38,458 INFO:   Saving step 200 in dataloader checkpoint
      2023-11-10 20:56:38,576 INFO:   Training completed successfully! Processed 13200 sample(s) in 1316.022207736969\
 seconds."""),
    # R_2.0.3: 2 samples per step, by the figures of the last line.
    Sample(
        source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/running-a-model-or-program.md at db8c3655",
        stack=CEREBRAS, num_runs=1, num_lines=2, first=(1950, 2.28834), last=(2000, 2.34778), text="""\
2023-11-29 18:13:13,048 INFO:   | Train Device=CSX, Step=1950, Loss=2.28834, Rate=397.31 samples/sec,\
 GlobalRate=433.98 samples/sec
2023-11-29 18:13:13,555 INFO:   | Train Device=CSX, Step=2000, Loss=2.34778, Rate=395.69 samples/sec,\
 GlobalRate=431.83 samples/sec
2023-11-29 18:13:13,555 INFO:   Saving checkpoint at step 2000
2023-11-29 18:13:55,523 INFO:   Training completed successfully!
2023-11-29 18:13:55,523 INFO:   Processed 4000 sample(s) in 51.230697212 seconds."""),
    # R_2.1: the batch size stands behind a progress message of the same line.
    Sample(source="github.com/argonne-lcf/ai-science-training-series 07_AITestbeds/Cerebras/bert-large.md",
        stack=CEREBRAS, num_runs=1, num_lines=3, first=(100, 9.5), last=(1000, 7.125), global_batch_size=1024,
        text="""\
  Initializing module BertForPreTrainingModel.perplexity_metric: [00:06, note=Initializing parameters]2024-03-14\
 02:59:32,596 INFO:   Effective batch size is 1024.
  2024-03-14 03:18:46,095 INFO:   Beginning appliance run
  2024-03-14 03:20:31,277 INFO:   | Train Device=CSX, Step=100, Loss=9.50000, Rate=974.00 samples/sec,\
 GlobalRate=974.00 samples/sec
  2024-03-14 03:22:24,890 INFO:   | Train Device=CSX, Step=200, Loss=8.37500, Rate=930.38 samples/sec,\
 GlobalRate=936.24 samples/sec
  2024-03-14 03:34:06,233 INFO:   | Train Device=CSX, Step=1000, Loss=7.12500, Rate=1246.55 samples/sec,\
 GlobalRate=1112.94 samples/sec
  2024-03-14 03:35:51,746 INFO:   Training completed successfully!
  2024-03-14 03:35:51,747 INFO:   Processed 1024000 sample(s) in 1025.603128781 seconds."""),
    # R_2.2: two runs, the later one first; only one says its batch size.
    Sample(source="github.com/kharelb/ai-science-training-series homework_7.md", stack=CEREBRAS, num_runs=2,
        num_lines=4, first=(100, 9.39062), last=(1000, 7.14844), text="""\
2024-03-30 14:09:43,663 INFO:   Effective batch size is 512.
2024-03-30 15:16:33,873 INFO:   | Train Device=CSX, Step=100, Loss=9.39062, Rate=2983.97 samples/sec,\
 GlobalRate=2983.97 samples/sec
2024-03-30 15:19:11,785 INFO:   | Train Device=CSX, Step=1000, Loss=7.12500, Rate=2900.63 samples/sec,\
 GlobalRate=2924.54 samples/sec
2024-03-30 15:20:24,238 INFO:   Training completed successfully!
2024-03-30 15:20:24,238 INFO:   Processed 512000 sample(s) in 175.070497198 seconds.
```
2024-03-30 13:03:05,540 INFO:   | Train Device=CSX, Step=100, Loss=9.48438, Rate=6855.28 samples/sec,\
 GlobalRate=6855.28 samples/sec
2024-03-30 13:07:40,068 INFO:   | Train Device=CSX, Step=1000, Loss=7.14844, Rate=6715.34 samples/sec,\
 GlobalRate=6727.92 samples/sec
2024-03-30 13:09:10,602 INFO:   Training completed successfully!
2024-03-30 13:09:10,602 INFO:   Processed 2048000 sample(s) in 304.403202469 seconds.
```"""),
    # R_2.4: a run says its steps at the beginning; checkpoints between; the loss rises.
    Sample(source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/example-programs.md at f0447638",
        stack=CEREBRAS, num_runs=1, num_lines=3, first=(100, 4.71332), last=(400, 4.12672), text="""\
2024-08-02 20:53:25,930 INFO:   Starting training loop 1, from global step 0 to 400
2024-08-02 21:14:38,044 INFO:   Beginning appliance run
2024-08-02 21:20:22,200 INFO:   | Train Device=CSX, Step=100, Loss=4.71332, Rate=595.23 samples/sec, GlobalRate=595.23\
 samples/sec
2024-08-02 21:26:13,253 INFO:   | Train Device=CSX, Step=200, Loss=10.34700, Rate=588.13 samples/sec,\
 GlobalRate=589.25 samples/sec
2024-08-02 21:26:13,260 INFO:   Saving checkpoint at step 200
2024-08-02 21:37:56,370 INFO:   | Train Device=CSX, Step=400, Loss=4.12672, Rate=583.08 samples/sec, GlobalRate=585.88\
 samples/sec
2024-08-02 21:38:42,917 INFO:   Training completed successfully!
2024-08-02 21:38:42,923 INFO:   Processed 819200 training sample(s) in 2716.994790088 seconds."""),
    # Wrapped: the global rate stands on the next line.
    Sample(source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/example-programs.md before 0a3c6747",
        stack=CEREBRAS, num_runs=1, num_lines=2, first=(397, 0.18575), last=(399, 0.18482), is_broken=True, text="""\
    2025-01-24 21:53:05,710 INFO:   | Train Device=CSX, Step=397, Loss=0.18575, Rate=405.81 samples/sec,\x20
    GlobalRate=405.41 samples/sec
    2025-01-24 21:53:11,080 INFO:   | Train Device=CSX, Step=399, Loss=0.18482, Rate=409.63 samples/sec,\x20
    GlobalRate=405.44 samples/sec\x20
    2025-01-24 21:53:13,761 INFO:   Saving checkpoint at step 400
    Transferring weights from server: 4556 tensors [02:34, 29.52 tensors/s]
    2025-01-24 21:56:28,435 INFO:   Processed 440000 training sample(s) in 1888.733046122 seconds."""),
    # R_2.4.
    Sample(source="github.com/seonghapark/AITestbeds cerebras/successfully_ran.md, vision transformer", stack=CEREBRAS,
        num_runs=1, num_lines=2, first=(10, 7.01949), last=(200, 6.72398), global_batch_size=2850, text="""\
2025-07-11 16:03:20,409 INFO:   Effective batch size is 2850.
2025-07-11 16:03:39,742 INFO:   Starting training loop 1, from global step 0 to 200
2025-07-11 18:10:19,468 INFO:   Beginning appliance run
2025-07-11 18:10:57,392 INFO:   | Train Device=CSX, Step=10, Loss=7.01949, Rate=753.24 samples/sec, GlobalRate=753.24\
 samples/sec
2025-07-11 18:24:46,556 INFO:   | Train Device=CSX, Step=200, Loss=6.72398, Rate=686.73 samples/sec, GlobalRate=657.44\
 samples/sec
2025-07-11 18:24:46,559 INFO:   Saving checkpoint at step 200
2025-07-11 18:25:27,397 INFO:   Training completed successfully!
2025-07-11 18:25:27,522 INFO:   Processed 570000 training sample(s) in 8507.781435492 seconds."""),
    # R_2.4: failed before the first step line, but has an end line.
    Sample(source="github.com/seonghapark/AITestbeds cerebras/successfully_ran.md, Llama", stack=CEREBRAS, num_runs=1,
        num_lines=0, text="""\
2025-07-11 15:24:55,975 INFO:   Starting training loop 1, from global step 0 to 200
2025-07-11 15:24:57,096 INFO:   Saving checkpoint at step 0
2025-07-11 17:53:33,940 INFO:   Beginning appliance run
2025-07-11 18:04:19,669 ERROR:   Initiating shutdown sequence due to Appliance error: Ran into error while receiving\
 tensor output_model_wise_params_norm for runtime iteration 10
2025-07-11 18:04:23,132 INFO:   Processed 11264 training sample(s) in 9567.159426912 seconds."""),
    # R_2.5: times that remain; cut in the middle of a line.
    Sample(source="github.com/argonne-lcf/ALCF_Hands_on_HPC_Workshop aiTestbeds/Cerebras/PyTorch/llama3-8b.md",
        stack=CEREBRAS, num_runs=1, num_lines=3, first=(1, 12.59069), last=(5, 12.59109), is_broken=True, text="""\
2025-10-08 04:09:18,649 INFO:   Starting train loop 1 of 1, from global step 1 to 10 (10 steps)
2025-10-08 04:16:36,976 INFO:   Beginning appliance run
2025-10-08 04:17:27,583 INFO:   | Train Device=CSX, Step=1, Loss=12.59069, Rate=18.99 samples/sec, GlobalRate=18.99\
 samples/sec, LoopTimeRemaining=0:07:35, TimeRemaining>0:07:35
2025-10-08 04:18:17,001 INFO:   | Train Device=CSX, Step=2, Loss=12.59906, Rate=19.25 samples/sec, GlobalRate=19.20\
 samples/sec, LoopTimeRemaining=0:06:40, TimeRemaining>0:06:40
2025-10-08 04:20:44,794 INFO:   | Train Device=CSX, Step=5, Loss=12.59109, Rate=19.42 samples/sec, GlobalRate=19.37\
 samples/sec, LoopTimeRemaining=0:04:07, TimeRemaining>0:04:07
2025-10-08 04:21:34,150 INFO:   | Train Device=CS"""),
    # R_2.6: the client catches up after a checkpoint, so Rate is seven times GlobalRate.
    Sample(
        source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/example-programs.md, diffusion transformer",
        stack=CEREBRAS, num_runs=1, num_lines=4, first=(20, 0.42919), last=(400, 0.18182), text="""\
    2025-10-13 21:43:08,633 INFO:   Beginning appliance run
    2025-10-13 21:43:35,288 INFO:   | Train Device=CSX, Step=20, Loss=0.42919, Rate=869.57 samples/sec,\
 GlobalRate=879.99 samples/sec, LoopTimeRemaining=0:08:41, TimeRemaining=0:08:41
    2025-10-13 21:47:35,271 INFO:   | Train Device=CSX, Step=200, Loss=0.18922, Rate=865.66 samples/sec,\
 GlobalRate=876.45 samples/sec, LoopTimeRemaining=0:04:41, TimeRemaining=0:04:41
    2025-10-13 21:47:35,276 INFO:   Saving checkpoint at step 200
    2025-10-13 21:50:40,262 INFO:   | Train Device=CSX, Step=220, Loss=0.19112, Rate=5970.06 samples/sec,\
 GlobalRate=569.10 samples/sec, LoopTimeRemaining=0:04:26, TimeRemaining=0:04:26
    2025-10-13 21:52:02,497 INFO:   | Train Device=CSX, Step=400, Loss=0.18182, Rate=896.97 samples/sec,\
 GlobalRate=875.31 samples/sec, LoopTimeRemaining=0:01:37, TimeRemaining=0:01:37
    2025-10-13 21:52:02,502 INFO:   Saving checkpoint at step 400
    2025-10-13 21:55:18,877 INFO:   Training completed successfully!
    2025-10-13 21:55:18,883 INFO:   Processed 467200 training sample(s) in 4754.503176912 seconds."""),
    # R_2.6: a progress bar of its own; the end line lacks its period.
    Sample(source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/example-programs.md, ESM-2",
        stack=CEREBRAS, num_runs=1, num_lines=3, first=(100, 14.50902), last=(400, 5.03271), text="""\
2025-10-10 23:35:19,797 INFO:   | Train Device=CSX, Step=100, Loss=14.50902, Rate=982.39 samples/sec,\
 GlobalRate=1015.86 samples/sec, LoopTimeRemaining=0:10:25, TimeRemaining=0:10:25
2025-10-10 23:38:48,278 INFO:   | Train Device=CSX, Step=200, Loss=26.60854, Rate=976.56 samples/sec,\
 GlobalRate=998.82 samples/sec, LoopTimeRemaining=0:07:01, TimeRemaining=0:07:01
2025-10-10 23:38:48,282 INFO:   Saving checkpoint at step 200
Saving checkpoint: 100%|█████████████████████████\
███████████████| 1321/1321 [00:09<00:00, 146.24 tensors/s]
2025-10-10 23:45:46,409 INFO:   | Train Device=CSX, Step=400, Loss=5.03271, Rate=974.58 samples/sec, GlobalRate=989.11\
 samples/sec, LoopTimeRemaining=0:00:08, TimeRemaining=0:00:08
2025-10-10 23:45:46,412 INFO:   Saving checkpoint at step 400
Saving checkpoint: 100%|█████████████████████████\
███████████████| 1321/1321 [00:08<00:00, 154.35 tensors/s]
2025-10-10 23:46:01,812 INFO:   Training completed successfully!
2025-10-10 23:46:01,861 INFO:   Processed 819200 training sample(s) in 4049.286902367 seconds"""),
    # R_2.9: an evaluation after training; the global rate holds its average since the start.
    Sample(source="github.com/EPCCed/Pilot-UKAIFA-Cerebras-workshop episodes/06-prepare-run-fine-tuning.md",
        stack=CEREBRAS, num_runs=1, num_lines=2, first=(1590, 0.15949), last=(1680, 0.16981), num_evaluation_lines=1,
        text="""\
...
2026-07-27 18:25:29,492 INFO:   | Train Device=CSX, Step=1590, Loss=0.15949, Rate=22.37 samples/sec, GlobalRate=8.44\
 samples/sec, LoopTimeRemaining=0:10:52, TimeRemaining>0:10:52
2026-07-27 18:26:09,905 INFO:   | Train Device=CSX, Step=1680, Loss=0.16981, Rate=15.09 samples/sec, GlobalRate=8.69\
 samples/sec, LoopTimeRemaining=0:10:52, TimeRemaining>0:10:52
2026-07-27 18:26:09,913 INFO:   Saving checkpoint at step 1680
Saving checkpoint: 100%|████████| 1864/1864 [13:22<00:00,  2.32 tensors/s]
...
2026-07-27 18:42:01,848 INFO:   | Eval Device=CSX, GlobalStep=1680, Batch=300, Loss=0.38198, Rate=58.42 samples/sec,\
 GlobalRate=58.71 samples/sec, LoopTimeRemaining=0:00:00, TimeRemaining=0:00:00
2026-07-27 18:42:04,110 INFO:   Avg Eval Loss: 0.3819842774172624
2026-07-27 18:42:04,153 INFO:     - eval/lm_perplexity = 1.4673088788986206
2026-07-27 18:42:04,178 INFO:   Processed 13440 training sample(s) in 2789.260229544 seconds."""),
    # R_2.6: the end of a run, of which only the evaluation is shown.
    Sample(source="github.com/argonne-lcf/user-guides docs/ai-testbed/cerebras/running-a-model-or-program.md",
        stack=CEREBRAS, num_runs=1, num_lines=0, num_evaluation_lines=2, text="""\
2025-10-09 18:19:52,310 INFO:   Beginning appliance run
2025-10-09 18:19:54,361 INFO:   | Eval Device=CSX, GlobalStep=400, Batch=20, Loss=5.94325, Rate=1163.27 samples/sec,\
 GlobalRate=1173.27 samples/sec, LoopTimeRemaining=0:00:08, TimeRemaining=0:00:08
2025-10-09 18:20:02,564 INFO:   | Eval Device=CSX, GlobalStep=400, Batch=100, Loss=5.92817, Rate=1172.36 samples/sec,\
 GlobalRate=1170.91 samples/sec, LoopTimeRemaining=0:00:00, TimeRemaining=0:00:00
2025-10-09 18:20:23,263 INFO:   Avg Eval Loss: 5.928174624443054
2025-10-09 18:20:23,278 INFO:     - eval/lm_perplexity = 375.4686584472656
2025-10-09 18:20:23,279 INFO:   Evaluation completed successfully!
2025-10-09 18:20:23,281 INFO:   Processed 48000 training sample(s) in 820.575766695 seconds."""),
)

_HUGGING_FACE = (
    # Filled up with blanks, to cover the progress bar.
    Sample(source="github.com/huggingface/transformers/pull/35207", stack=HUGGING_FACE, num_runs=1, num_lines=3,
        first=(None, 2.119), last=(None, 1.5798), text="""\
{'loss': 2.119, 'grad_norm': 37.657958984375, 'learning_rate': 4.5833333333333334e-05, 'epoch': 0.25}  \x20
{'loss': 1.6462, 'grad_norm': 17.54932403564453, 'learning_rate': 4.166666666666667e-05, 'epoch': 0.5}  \x20
{'loss': 1.5798, 'grad_norm': 14.871335983276367, 'learning_rate': 3.7500000000000003e-05, 'epoch': 0.75}"""),
    # Of 2020, the trainer for TensorFlow: a line has its step.
    Sample(source="github.com/huggingface/transformers/pull/6998", stack=HUGGING_FACE, num_runs=1, num_lines=3,
        first=(10, 18.6387), last=(30, 12.079448), global_batch_size=128, text="""\
***** Running training *****
  Num examples = 24000
  Num Epochs = 3
  Instantaneous batch size per device = 32
  Total train batch size (w. parallel, distributed & accumulation) = 128
  Total optimization steps = 564
{'loss': 18.6387, 'learning_rate': 4.9113474e-05, 'epoch': 0.05851063829787234, 'step': 10}
{'loss': 14.222743, 'learning_rate': 4.822695e-05, 'epoch': 0.11170212765957446, 'step': 20}
{'loss': 12.079448, 'learning_rate': 4.734042e-05, 'epoch': 0.16489361702127658, 'step': 30}"""),
    # Several ranks, no step line in 16 steps, and an end without a loss.
    Sample(source="github.com/bigscience-workshop/bigscience experiments/gpt2-hf-ds/hf_ds_gpt2_base_n4-1832555.out",
        stack=HUGGING_FACE, num_runs=1, num_lines=0, global_batch_size=64, text="""\
[INFO|trainer.py:1143] 2021-05-25 06:38:26,284 >> ***** Running training *****
[INFO|trainer.py:1144] 2021-05-25 06:38:26,284 >>   Num examples = 1000
[INFO|trainer.py:1143] 2021-05-25 06:38:26,285 >> ***** Running training *****
[INFO|trainer.py:1147] 2021-05-25 06:38:26,285 >>   Total train batch size (w. parallel, distributed & accumulation) =\
 64
[INFO|trainer.py:1149] 2021-05-25 06:38:26,285 >>   Total optimization steps = 16
\r  0%|          | 0/16 [00:00<?, ?it/s]\r  6%|▋         | 1/16 [00:58<14:41, 58.76s/it]\r 12%|█▎        | 2/16\
 [02:00<13:54, 59.61s/it]
{'train_runtime': 919.097, 'train_samples_per_second': 1.088, 'train_steps_per_second': 0.017, 'epoch': 1.0}
{'train_runtime': 919.094, 'train_samples_per_second': 1.088, 'train_steps_per_second': 0.017, 'epoch': 1.0}
\r                                               \r\r100%|██████████| 16/16 [15:\
19<00:00, 55.00s/it]\r100%|██████████|\
 16/16 [15:19<00:00, 57.45s/it]"""),
    # TRL, preferences; some fields are left out.
    Sample(source="github.com/huggingface/trl/pull/570", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(None, 0.9073), last=(None, 0.8165), num_evaluation_lines=1, text="""\
{'loss': 0.9073, 'learning_rate': 4.2e-05, 'rewards/chosen': -1.17503821849823, 'rewards/rejected':\
 -1.4742968082427979, 'rewards/accuracies': 0.5625, 'rewards/margins': 0.2992585599422455, 'epoch': 0.16}
{'eval_loss': 0.8106440901756287, 'eval_runtime': 9.5817, 'eval_samples_per_second': 10.437, 'eval_steps_per_second':\
 1.357, 'epoch': 0.2}
{'loss': 0.8165, 'learning_rate': 3.8e-05, 'rewards/chosen': -1.1095190048217773, 'epoch': 0.24}"""),
    # Evaluations between, each with the epoch of the step line before it.
    Sample(source="github.com/huggingface/trl/issues/3926", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(None, 0.3771), last=(None, 0.083), num_evaluation_lines=2, text="""\
{'loss': 0.3771, 'grad_norm': 0.6300405859947205, 'learning_rate': 0.0001891006524188368, 'entropy':\
 1.9093962386250496, 'num_tokens': 5734.0, 'mean_token_accuracy': 0.8984374925494194, 'epoch': 0.01}
{'eval_loss': 0.13767920434474945, 'eval_runtime': 30.7302, 'eval_samples_per_second': 19.785,\
 'eval_steps_per_second': 4.946, 'eval_entropy': 1.980406832538153, 'eval_num_tokens': 5734.0,\
 'eval_mean_token_accuracy': 0.9613486798970323, 'epoch': 0.01}
{'loss': 0.083, 'grad_norm': 1.0651044845581055, 'learning_rate': 0.00014539904997395468, 'entropy': 2.05564696341753,\
 'num_tokens': 11421.0, 'mean_token_accuracy': 0.9687499888241291, 'epoch': 0.02}
{'eval_loss': 0.10530459135770798, 'eval_runtime': 31.3273, 'eval_samples_per_second': 19.408,\
 'eval_steps_per_second': 4.852, 'epoch': 0.02}"""),
    # The trainer turns a loss that is not a number into zero; the epoch is rounded to zero.
    Sample(source="github.com/SY-Xuan/Pink/issues/6", stack=HUGGING_FACE, num_runs=1, num_lines=3, first=(None, 0.0),
        last=(None, 0.0), text="""\
{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 0.00012142857142857143, 'epoch': 0.0}                 \x20
{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 0.00012857142857142855, 'epoch': 0.0}                 \x20
{'loss': 0.0, 'grad_norm': nan, 'learning_rate': 0.0001357142857142857, 'epoch': 0.0}"""),
    # The batch size is that of evaluations, per device.
    Sample(source="github.com/McGill-NLP/llm2vec/issues/174", stack=HUGGING_FACE, num_runs=1, num_lines=0,
        num_evaluation_lines=1, text="""\
[INFO|trainer.py:3824] 2025-10-22 21:20:22,700 >>   Batch size = 24
{'eval_loss': nan, 'eval_accuracy': 0.0, 'eval_runtime': 17.3192, 'eval_samples_per_second': 28.812,\
 'eval_steps_per_second': 0.346, 'epoch': 0.08}
  3%|███▍      | 200/7413 [32:53<19:20:33,  9.65s/it10/22/2025 21:20:40 - INFO - __main__ - \
Saving model checkpoint"""),
    # Typeset quotes.
    Sample(source="github.com/huggingface/transformers/issues/33336", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(None, 1.453), last=(None, 1.406), is_broken=True, text="""\
{\u2018loss\u2019: 1.453, \u2018grad_norm\u2019: 2.474428415298462, \u2018learning_rate\u2019: 4.682539682539683e-05,\
 \u2018epoch\u2019: 0.19}
{\u2018loss\u2019: 1.406, \u2018grad_norm\u2019: 2.5064773559570312, \u2018learning_rate\u2019:\
 4.3650793650793655e-05, \u2018epoch\u2019: 0.38}"""),
    # Since release 5, numbers are strings of four digits.
    Sample(source="github.com/huggingface/sentence-transformers/issues/3756", stack=HUGGING_FACE, num_runs=1,
        num_lines=3, first=(None, 0.91), last=(None, 0.9243), text="""\
{'loss': '0.91', 'grad_norm': '0.8618', 'learning_rate': '3.094e-07', 'epoch': '0.6623'}
{'loss': '0.9154', 'grad_norm': '0.7672', 'learning_rate': '3.057e-07', 'epoch': '0.6645'}
{'loss': '0.9243', 'grad_norm': '0.7811', 'learning_rate': '3.021e-07', 'epoch': '0.6668'}"""),
    # Release 5: every step line has a runtime, which is not the end of a run.
    Sample(source="github.com/unslothai/unsloth/pull/4547", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(None, 14.88), last=(None, 14.64), text="""\
{'loss': '14.88', 'grad_norm': '2.578', 'learning_rate': '0.000156', 'epoch': '0.00748', 'num_input_tokens_seen':\
 286019, 'train_runtime': '110.7', 'train_tokens_per_second': '2583'}
 60%|██████    | 18/30 [01:50<00:19,  1.65s/it]DeprecationWarning:\x20
{'loss': '14.64', 'grad_norm': '2.938', 'learning_rate': '0.000144', 'epoch': '0.007895', 'num_input_tokens_seen':\
 302403, 'train_runtime': '112.2', 'train_tokens_per_second': '2695'}"""),
    # Two runs, told apart by the bars alone; the author set the losses in bold.
    Sample(source="github.com/unslothai/unsloth/issues/344", stack=HUGGING_FACE, num_runs=2, num_lines=2,
        first=(None, 4.7581), last=(None, 0.8759), is_broken=True, text="""\
  0%|          | 0/52 [00:00<?, ?it/s]\r  2%|▏         | 1/52 [00:38<32:45, 38.54s/it]\r          \
                    \
                  {'loss': **4.7581**, 'grad_norm': 3.063769578933716, 'learning_rate': 9.911436253643445e-05,\
 'epoch': 0.1, 'num_input_tokens_seen': 162198}
\r 10%|▉         | 5/52 [03:07<29:13, 37.31s/it]
  0%|          | 0/52 [00:00<?, ?it/s]\r  2%|▏         | 1/52 [00:41<35:08, 41.35s/it]\r          \
                    \
                  {'loss': **0.8759**, 'grad_norm': 0.32929742336273193, 'learning_rate': 9.911436253643445e-05,\
 'epoch': 0.1, 'num_input_tokens_seen': 162198}
\r 10%|▉         | 5/52 [03:23<31:48, 40.60s/it]"""),
    # Swift: the step has the name global_step/max_steps.
    Sample(source="github.com/modelscope/ms-swift/issues/4146", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(78, 0.21932983), last=(79, 0.21930949), text="""\
{'loss': 0.21932983, 'grad_norm': 0.57172734, 'learning_rate': 6.8e-07, 'memory(GiB)': 63.16, 'train_speed(iter/s)':\
 0.011239, 'rewards/chosen': 4.8125, 'rewards/rejected': -5.25, 'nll_loss': 0.875, 'epoch': 0.89,\
 'global_step/max_steps': '78/176', 'percentage': '44.32%', 'elapsed_time': '1h 54m 53s', 'remaining_time': '2h 24m\
 21s'}
{'loss': 0.21930949, 'grad_norm': 0.54369718, 'learning_rate': 6.8e-07, 'memory(GiB)': 73.75, 'train_speed(iter/s)':\
 0.011243, 'rewards/chosen': 4.90625, 'rewards/rejected': -5.34375, 'nll_loss': 0.875, 'epoch': 0.9,\
 'global_step/max_steps': '79/176', 'percentage': '44.89%', 'elapsed_time': '1h 56m 20s', 'remaining_time': '2h 22m\
 50s'}"""),
    # Swift's JSON lines.
    Sample(source="github.com/modelscope/ms-swift/issues/5890", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(2, 1e-08), last=(3, 4e-08), text="""\
{"loss": 1e-08, "grad_norm": 0.03865505, "learning_rate": 1e-08, "reward": 0.65625, "kl": 0.0, "epoch": 0.00045568,\
 "global_step/max_steps": "2/4389", "percentage": "0.05%", "elapsed_time": "6m 50s", "remaining_time": "10d 9h 50m\
 13s", "train_speed(iter/s)": 0.004878}
{"loss": 4e-08, "grad_norm": 0.03032537, "learning_rate": 1e-08, "epoch": 0.00068353, "global_step/max_steps":\
 "3/4389"}"""),
    # trainer_log.jsonl of LLaMA Factory; the last line has no loss.
    Sample(source="github.com/hiyouga/LlamaFactory/issues/774", stack=HUGGING_FACE, num_runs=1, num_lines=2,
        first=(3220, 4.4458), last=(3230, 4.4598), text="""\
{"current_steps": 3220, "total_steps": 3235, "loss": 4.4458, "eval_loss": null, "predict_loss": null, "reward": null,\
 "learning_rate": 2.6523817248214068e-09, "epoch": 1.0, "percentage": 99.54, "elapsed_time": "5:15:22",\
 "remaining_time": "0:01:28"}
{"current_steps": 3230, "total_steps": 3235, "loss": 4.4598, "eval_loss": null, "predict_loss": null, "reward": null,\
 "learning_rate": 2.9471371284783834e-10, "epoch": 1.0, "percentage": 99.85, "elapsed_time": "5:16:20",\
 "remaining_time": "0:00:29"}
{"current_steps": 3235, "total_steps": 3235, "loss": null, "eval_loss": null, "predict_loss": null, "reward": null,\
 "learning_rate": null, "epoch": 1.0, "percentage": 100.0, "elapsed_time": "5:16:48", "remaining_time": "0:00:00"}"""),
    # The end alone: a mean loss of all steps, which is no step line, said twice.
    Sample(source="github.com/hiyouga/LlamaFactory/pull/10488", stack=HUGGING_FACE, num_runs=1, num_lines=0, text="""\
{'train_runtime': '2219', 'train_samples_per_second': '1.474', 'train_steps_per_second': '0.185', 'train_loss':\
 '0.7228', 'epoch': '3'}
***** train metrics *****
  epoch                    =        3.0
  train_loss               =     0.7228
  train_runtime            = 0:36:58.55
  train_samples_per_second =      1.474"""),
)

_TORCHTITAN = (
    # Of 2024: words per second.
    Sample(source="github.com/pytorch/torchtitan/pull/364", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(1, 12.255), last=(30, 7.9951), text="""\
[rank0]:2024-06-13 12:53:16,156 - root - INFO - step:  1  loss: 12.2550  memory: 33.35GiB(35.09%)  wps: 542  mfu: 3.17%
[rank0]:2024-06-13 12:53:42,562 - root - INFO - step: 10  loss: 10.7798  memory: 41.18GiB(43.33%)  wps: 2,792  mfu:\
 16.35%
[rank0]:2024-06-13 12:54:25,626 - root - INFO - step: 30  loss:  7.9951  memory: 41.18GiB(43.33%)  wps: 3,802  mfu:\
 22.27%"""),
    # Labels of srun; excerpts of two runs one after the other, each at the same step: in no log do runs part so.
    Sample(source="github.com/aws-samples/awsome-distributed-training 3.test_cases/pytorch/torchtitan/README.md",
        stack=TORCHTITAN, num_runs=2, num_lines=2, first=(1990, 3.437), last=(1990, 3.4255), is_broken=True, text="""\
1: 2025-03-04 00:44:44,441 - root - INFO - step: 1990  loss:  3.4370  memory: 68.57GiB(86.69%)  tps: 6,785  mfu: 39.73%
0: 2025-03-04 00:44:44,441 - root - INFO - step: 1990  loss:  3.4370  memory: 68.57GiB(86.69%)  tps: 6,785  mfu: 39.73%
2: 2025-03-04 00:44:44,441 - root - INFO - step: 1990  loss:  3.4370  memory: 68.57GiB(86.69%)  tps: 6,785  mfu: 39.73%
2: 2025-03-04 00:31:19,918 - root - INFO - step: 1990  loss:  3.4255  memory: 63.48GiB(80.25%)  tps: 7,865  mfu: 46.06%
0: 2025-03-04 00:31:19,918 - root - INFO - step: 1990  loss:  3.4255  memory: 63.48GiB(80.25%)  tps: 7,865  mfu:\
 46.06%"""),
    # Without its beginning and end.
    Sample(source="github.com/pytorch/torchtitan/pull/950", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(22, 6.225), last=(24, 6.1861), text="""\
[rank0]:[titan] 2025-03-12 11:10:21,511 - root - INFO - step: 22  loss:  6.2250  memory:  1.41GiB(1.79%)  tps: 193,831\
  tflops: 18.36  mfu: 1.86%
[rank0]:[titan] 2025-03-12 11:10:21,589 - root - INFO - step: 23  loss:  6.2236  memory:  1.41GiB(1.79%)  tps: 212,462\
  tflops: 20.12  mfu: 2.03%
[rank0]:[titan] 2025-03-12 11:10:21,603 - root - WARNING - Dataset c4_test is being re-looped
[rank0]:[titan] 2025-03-12 11:10:21,667 - root - INFO - step: 24  loss:  6.1861  memory:  1.41GiB(1.79%)  tps: 209,645\
  tflops: 19.86  mfu: 2.01%"""),
    # A fork that prints how far it is.
    Sample(source="github.com/AICrossSim/NewComputeBench docs/01-model-training/llm-pretrain-and-eval.md",
        stack=TORCHTITAN, num_runs=1, num_lines=1, first=(640, 6.2116), last=(640, 6.2116), text="""\
[rank0]:2025-04-01 00:25:47,084 - root - INFO - step: 640/644 = 99.3789%  loss:  6.2116  memory: 87.04GiB(93.48%) \
 tps: 52,142  mfu: 3.09%
[rank0]:2025-04-01 00:25:54,090 - root - INFO - Saving a full checkpoint at last step, step 644.
[rank0]:2025-04-01 00:26:01,706 - root - INFO - Training completed"""),
    # Pipeline stages: a rank that has no loss prints -1.
    Sample(source="github.com/pytorch/torchtitan/issues/1232", stack=TORCHTITAN, num_runs=1, num_lines=2,
        first=(1, -1.0), last=(2, -1.0), global_batch_size=2, text="""\
[rank0]:[titan] 2025-05-28 21:11:37,626 - root - INFO - Trainer is initialized with local batch size 2, global batch\
 size 2, sequence length 4096, total steps 10 (warmup 2).
[rank0]:[titan] 2025-05-28 21:11:37,626 - root - INFO - Training starts at step 1.
[rank0]:[titan] 2025-05-28 21:13:37,816 - root - INFO - step:  1  loss: -1.0000  memory: 36.90GiB(46.63%)  tps: 4 \
 tflops: 0.90  mfu: 0.29%
[rank0]:[titan] 2025-05-28 21:13:37,816 - root - INFO - Synchronizing and adjusting timeout for all ProcessGroups to\
 0:01:40
[rank0]:[titan] 2025-05-28 21:14:39,054 - root - INFO - step:  2  loss: -1.0000  memory: 42.78GiB(54.06%)  tps: 8 \
 tflops: 1.81  mfu: 0.58%"""),
    Sample(source="github.com/pytorch/ao docs/source/pretraining.rst", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(1, 12.2254), last=(20, 8.9196), text="""\
[rank0]:[titan] 2025-06-04 08:51:48,074 - root - INFO - step:  1  loss: 12.2254  memory: 27.34GiB(28.78%)  tps: 375 \
 tflops: 21.73  mfu: 2.20%
[rank0]:[titan] 2025-06-04 08:51:58,557 - root - INFO - step: 10  loss: 10.7069  memory: 30.99GiB(32.62%)  tps: 7,034 \
 tflops: 407.35  mfu: 41.19%
[rank0]:[titan] 2025-06-04 08:52:10,224 - root - INFO - step: 20  loss:  8.9196  memory: 30.99GiB(32.62%)  tps: 7,022 \
 tflops: 406.65  mfu: 41.12%"""),
    # A model whose operations nobody counts: the line ends with the rate.
    Sample(source="github.com/pytorch/torchtitan/pull/1461", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(1, 8.188), last=(3, 8.0871), text="""\
[rank0]:[titan] 2025-06-16 16:24:16,593 - root - INFO - Training starts at step 1.
[rank0]:[titan] 2025-06-16 16:24:23,544 - root - INFO - step:  1  loss:  8.1880  memory:  4.88GiB(6.16%)  tps: 28
[rank0]:[titan] 2025-06-16 16:24:23,842 - root - INFO - step:  2  loss:  8.1610  memory:  4.90GiB(6.20%)  tps: 13,785
[rank0]:[titan] 2025-06-16 16:24:24,135 - root - INFO - step:  3  loss:  8.0871  memory:  4.90GiB(6.20%)  tps:\
 14,006"""),
    # A run is stopped, and resumed from an earlier step.
    Sample(source="github.com/pytorch/torchtitan/pull/1287", stack=TORCHTITAN, num_runs=2, num_lines=2,
        first=(440, 5.2553), last=(450, 5.1627), global_batch_size=8, text="""\
[rank0]:[titan] 2025-06-25 13:06:03,755 - root - INFO - step: 440  loss:  5.2553  memory: 49.66GiB(52.28%)  tps: 5,868\
  tflops: 339.85  mfu: 34.36%
[rank0]:[0] 2025-06-25 13:06:06,800 - root - INFO - Waiting for checkpoint save request...
[rank0]:[titan] 2025-06-25 13:06:17,743 - root - INFO - step: 450  loss:  5.1627  memory: 49.66GiB(52.28%)  tps: 5,858\
  tflops: 339.25  mfu: 34.30%
[rank0]:[titan] 2025-06-25 13:10:45,513 - root - INFO - Trainer is initialized with local batch size 1, global batch\
 size 8, gradient accumulation steps 1, sequence length 8192, total steps 1000 (warmup 200).
[rank0]:[titan] 2025-06-25 13:10:56,821 - root - INFO - Training starts at step 401."""),
    # Two messages on one line.
    Sample(source="github.com/pytorch/torchtitan/pull/1349", stack=TORCHTITAN, num_runs=1, num_lines=2,
        first=(1, 8.1996), last=(2, 8.1709), text="""\
[rank0]:[titan] 2025-06-26 18:12:46,592 - root - INFO - Building 1-D device mesh with ['dp_shard'], [8]       \
 [rank0]:[titan] 2025-06-26 18:12:46,593 - root - INFO - [GC] Initial GC collection. 0.00 seconds.
[rank0]:[titan] 2025-06-26 18:23:14,389 - root - INFO - step:  1  loss:  8.1996  memory:  2.65GiB(2.79%)  tps: 1,772 \
 tflops: 0.13  mfu: 0.01%
[rank0]:[titan] 2025-06-26 18:23:14,486 - root - INFO - step:  2  loss:  8.1709  memory:  2.66GiB(2.80%)  tps: 168,877\
  tflops: 12.14  mfu: 1.23%"""),
    # A device that counts no memory.
    Sample(source="github.com/pytorch/torchtitan/pull/1437", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(3, 4.9925), last=(5, 4.4394), text="""\
[rank0]:[titan] 2025-07-21 15:57:42,774 - root - INFO - step:  3  loss:  4.9925  grad_norm:  2.6422  memory: \
 0.00GiB(0.00%)  tps: 30,768  tflops: 3.15  mfu: 0.32%
[rank0]:[titan] 2025-07-21 15:57:43,242 - root - INFO - step:  4  loss:  4.6671  grad_norm:  2.5457  memory: \
 0.00GiB(0.00%)  tps: 35,051  tflops: 3.59  mfu: 0.36%
[rank0]:[titan] 2025-07-21 15:57:43,713 - root - INFO - step:  5  loss:  4.4394  grad_norm:  2.2714  memory: \
 0.00GiB(0.00%)  tps: 34,824  tflops: 3.57  mfu: 0.36%"""),
    # Several ranks without labels, whose rates differ; a print stands before the line; interrupted.
    Sample(source="public transcript of YerevaNN's 3DMolGen, a fork; its file is not known", stack=TORCHTITAN,
        num_runs=1, num_lines=2, first=(20, 11.8347), last=(40, 9.3507), num_evaluation_lines=1, text="""\
[N]<-2.0899,-0.0647,-0.9608>[titan] 2026-01-16 02:42:36,857 - root - INFO - validate step:  1  loss: 12.4699  memory:\
 69.81GiB(88.17%)  tps: 74,600
[titan] 2026-01-16 02:42:36,857 - root - INFO - validate step:  1  loss: 12.4699  memory: 69.81GiB(88.17%)  tps: 74,599
[titan] 2026-01-16 02:42:48,277 - root - INFO - step: 20  loss: 11.8347  grad_norm:  4.6875  memory: 69.83GiB(88.19%) \
 tps: 40,890  tflops: 261.49  mfu: 26.44%
[titan] 2026-01-16 02:42:48,277 - root - INFO - step: 20  loss: 11.8347  grad_norm:  4.6875  memory: 69.83GiB(88.19%) \
 tps: 40,892  tflops: 261.50  mfu: 26.44%
[titan] 2026-01-16 02:42:59,803 - root - INFO - step: 40  loss:  9.3507  grad_norm: 11.4375  memory: 69.83GiB(88.19%) \
 tps: 42,647  tflops: 272.72  mfu: 27.58%
[titan] 2026-01-16 02:42:59,803 - root - INFO - step: 40  loss:  9.3507  grad_norm: 11.4375  memory: 69.83GiB(88.19%) \
 tps: 42,646  tflops: 272.72  mfu: 27.58%
^CW0116 02:43:46.156000 846088 torch/distributed/elastic/agent/server/api.py:739] Received 2 death signal, shutting\
 down workers"""),
    # In the colours of torchtitan's terminals, which the page does not show.
    Sample(source="github.com/pytorch/torchtitan/pull/3393", stack=TORCHTITAN, num_runs=1, num_lines=3,
        first=(14, 3.24405), last=(16, 3.05047), text="""\
[rank0]:[titan] 2026-05-18 16:04:46,338 - root - INFO - \x1b[31mstep: 14  \x1b[32mloss:  3.24405 \
 \x1b[38;2;180;60;0mgrad_norm:  0.8319  \x1b[38;2;54;234;195mmemory:  9.46GiB(64.99%)  \x1b[34mtps: 7,282 \
 \x1b[36mtflops: 0.52  \x1b[35mmfu: 0.17%\x1b[39m
[rank0]:[titan] 2026-05-18 16:04:47,456 - root - INFO - \x1b[31mstep: 15  \x1b[32mloss:  3.10680 \
 \x1b[38;2;180;60;0mgrad_norm:  0.8587  \x1b[38;2;54;234;195mmemory:  9.46GiB(64.99%)  \x1b[34mtps: 7,334 \
 \x1b[36mtflops: 0.53  \x1b[35mmfu: 0.17%\x1b[39m
[rank0]:[titan] 2026-05-18 16:04:48,577 - root - INFO - \x1b[31mstep: 16  \x1b[32mloss:  3.05047 \
 \x1b[38;2;180;60;0mgrad_norm:  0.5443  \x1b[38;2;54;234;195mmemory:  9.46GiB(64.99%)  \x1b[34mtps: 7,313 \
 \x1b[36mtflops: 0.52  \x1b[35mmfu: 0.17%\x1b[39m"""),
    # Wrapped; a device whose peak is not known.
    Sample(source="github.com/pytorch/torchtitan/pull/3932", stack=TORCHTITAN, num_runs=1, num_lines=2,
        first=(1, 7.9882), last=(2, 6.08364), is_broken=True, text="""\
[rank0]:[titan] 2026-07-16 11:20:41,921 - root - INFO - step:  1  loss:
7.98820  grad_norm:  3.7762  memory:  3.87GiB(2.17%)  tps: 1,578
tflops: 0.86  mfu: N/A
[rank0]:[titan] 2026-07-16 11:20:42,091 - root - INFO - step:  2  loss:
6.08364  grad_norm:  4.2124  memory:  4.24GiB(2.38%)  tps: 96,705
tflops: 52.50  mfu: N/A"""),
)

_MEGATRON = (
    # Megatron of 2020: no colons, a loss that is not a number, no counts of samples.
    Sample(source="github.com/THUDM/Chinese-Transformer-XL/issues/7", stack=MEGATRON, num_runs=1, num_lines=4,
        first=(600, 5.763325), last=(1100, 4.326191), num_evaluation_lines=1, text="""\
 iteration      600/    3000 | elapsed time per iteration (ms): 11052.7 | learning rate 9.517E-06 | lm loss\
 5.763325E+00 | loss scale 4.0 |
 iteration      700/    3000 | elapsed time per iteration (ms): 12932.3 | learning rate 9.773E-06 | lm loss NAN | loss\
 scale 4.0 |
Warning: NaN or Inf found in input tensor.
 iteration     1000/    3000 | elapsed time per iteration (ms): 12955.2 | learning rate 8.807E-06 | lm loss\
 4.454510E+00 | loss scale 0.1 |
 validation loss at iteration 1000 | LM loss: 4.503653E+00 | LM PPL: 9.034661E+01
 iteration     1100/    3000 | elapsed time per iteration (ms): 11197.8 | learning rate 8.493E-06 | lm loss\
 4.326191E+00 | loss scale 0.1 |"""),
    # No loss in the first line, where every step was skipped; messages of two ranks on one line.
    Sample(source="github.com/bigscience-workshop/bigscience experiments/gpt2-meg, the .out of job 1809579",
        stack=MEGATRON, num_runs=1, num_lines=2, first=(20, 12.03115), last=(30, 22.47505), global_batch_size=4,
        text="""\
training ...
[before the start of training step] datetime: 2021-05-23 08:41:05\x20
 iteration       10/    1000 | consumed samples:           40 | elapsed time per iteration (ms): 2152.2 | learning\
 rate: 0.000E+00 | global batch size:     4 | loss scale: 8388608.0 | number of skipped iterations:  10 | number of\
 nan iterations:   0 |
time (ms) | forward-compute: 306.62 | forward-recv: 527.58
 iteration       20/    1000 | consumed samples:           80 | elapsed time per iteration (ms): 1354.9 | learning\
 rate: 3.750E-05 | global batch size:     4 | lm loss: 1.203115E+01 | loss scale: 32768.0 | number of skipped\
 iterations:   8 | number of nan iterations:   0 |
[Rank 7] (after 20 iterations) memory (MB) | allocated: 21633.0859375 | reserved: 29316.0[Rank 6] (after 20\
 iterations) memory (MB) | allocated: 21633.0859375 | reserved: 29312.0
 iteration       30/    1000 | consumed samples:          120 | elapsed time per iteration (ms): 1376.1 | learning\
 rate: 1.500E-04 | global batch size:     4 | lm loss: 2.247505E+01 | loss scale: 16384.0 | grad norm: 16.999 | number\
 of skipped iterations:   1 | number of nan iterations:   0 |"""),
    # DeepSpeed's engine prints every step, too, and rounds otherwise.
    Sample(
        source="github.com/bigscience-workshop/bigscience experiments/gpt2-meg-ds-3d-old/meg_ds_3d_gpt2_perf_n16.out",
        stack=MEGATRON, num_runs=1, num_lines=2, first=(1, 12.79022), last=(2, 12.80042), text="""\
steps: 1 loss: 12.7902 iter time (s): 150.471 samples/sec: 6.805
 iteration        1/    1000 | elapsed time per iteration (ms): 150471.3 | learning rate: 1.875E-05 | lm loss:\
 1.279022E+01 | loss scale: 1024.0 | number of skipped iterations:   0 | number of nan iterations:   0 |
after 1 iterations memory (MB) | allocated: 12335.4560546875 | reserved: 23330.0
time (ms) | forward: 0.00 | backward: 0.00 | optimizer: 0.00 | batch generator: 0.00
steps: 2 loss: 12.8004 iter time (s): 145.206 samples/sec: 7.052
 iteration        2/    1000 | elapsed time per iteration (ms): 145207.0 | learning rate: 3.750E-05 | lm loss:\
 1.280042E+01 | loss scale: 1024.0 | number of skipped iterations:   0 | number of nan iterations:   0 |"""),
    # A validation between, and steps that are left out.
    Sample(source="github.com/bigscience-workshop/bigscience train/tr8-104B-wide/chronicles.md", stack=MEGATRON,
        num_runs=1, num_lines=3, first=(7000, 6.444662), last=(7220, 7.155109), num_evaluation_lines=1,
        global_batch_size=96, text="""\
 iteration     7000/  159576 | consumed samples:       260912 | elapsed time per iteration (ms): 18706.1 | learning\
 rate: 6.000E-05 | global batch size:    96 | lm loss: 6.444662E+00 | loss scale: 2048.0 | grad norm: 98258.265 | num\
 zeros: 0.0 | number of skipped iterations:   0 | number of nan iterations:   0 |
 validation loss at iteration 7000 | lm loss value: 7.174200E+00 | lm loss PPL: 1.305315E+03 |
 iteration     7010/  159576 | consumed samples:       261872 | elapsed time per iteration (ms): 19904.0 | learning\
 rate: 6.000E-05 | global batch size:    96 | lm loss: 1.142026E+01 | loss scale: 2048.0 | grad norm: 219645.978 | num\
 zeros: 0.0 | number of skipped iterations:   0 | number of nan iterations:   0 |
[...]
 iteration     7220/  159576 | consumed samples:       282032 | elapsed time per iteration (ms): 18333.4 | learning\
 rate: 6.000E-05 | global batch size:    96 | lm loss: 7.155109E+00 | loss scale: 2048.0 | grad norm: 16921.991 | num\
 zeros: 0.0 | number of skipped iterations:   0 | number of nan iterations:   0 |"""),
    # BLOOM: a label of torchrun, times in seconds; the later line is wrapped.
    Sample(source="github.com/bigscience-workshop/bigscience train/tr11-176B-ml/chronicles.md", stack=MEGATRON,
        num_runs=1, num_lines=2, first=(31214, 2.198845), last=(42780, 2.117073), global_batch_size=2048,
        is_broken=True, text="""\
[default7]: iteration    31214/  115311 | consumed samples:     47768496 | consumed tokens:  97829879808 | elapsed\
 time per iteration (s): 106.46 | learning rate: 5.279E-05 | global batch size:  2048 | lm loss: 2.198845E+00 | grad\
 norm: 0.242 | num zeros: 0.0 | number of skipped iterations:   0 | number of nan iterations:   0 | samples per\
 second: 19.238 | TFLOPs: 147.29 |
[...]
[default7]: iteration   42780/ 115311 | consumed samples:    71455664 | consumed tokens: 146341199872 | elapsed time\
 per iteration (s): 105.16 | learning
 rate: 4.475E-05 | global batch size: 2048 | lm loss: 2.117073E+00 | grad norm: 0.150 | num zeros: 0.0 | number of\
 skipped iterations:  0 | number of nan
iterations:  0 | samples per second: 19.474 | TFLOPs: 149.10 |"""),
    # BERT: two losses; cut in the middle of a line.
    Sample(source="github.com/NVIDIA/nccl/issues/743", stack=MEGATRON, num_runs=1, num_lines=1, first=(20, 10.05022),
        last=(20, 10.05022), global_batch_size=4, is_broken=True, text="""\
time (ms) | forward-compute: 193.77
 iteration       20/ 1000000 | consumed samples:           80 | elapsed time per iteration (ms): 140.6 | learning\
 rate: 2.020E-08 | global batch size:     4 | lm loss: 1.005022E+01 | sop loss: 8.174902E-01 | loss scale: 32768.0 |\
 grad norm: 217.199 | number of skipp"""),
    # A loss that is not a number is left out; cut in the middle of a line.
    Sample(source="github.com/epfLLM/Megatron-LLM/issues/33", stack=MEGATRON, num_runs=1, num_lines=2,
        first=(3383, 0.7334521), last=(3384, 0.7072597), global_batch_size=64, is_broken=True, text="""\
iteration     3383/    8000 | consumed samples:       216512 | elapsed time per iteration (ms): 7613.1 | learning\
 rate: 6.680E-06 | global batch size:    64 | lm loss: 7.334521E-01 | loss scale: 1.0 | grad norm: 0.752 | number of\
 skipped iterations:   0 | number of nan iterations:   0 |
iteration     3384/    8000 | consumed samples:       216576 | elapsed time per iteration (ms): 7845.5 | learning\
 rate: 6.678E-06 | global batch size:    64 | lm loss: 7.072597E-01 | loss scale: 1.0 | grad norm: 0.741 | number of\
 skipped iterations:   0 | number of nan iterations:   0 |
iteration     3385/    8000 | consumed samples:       216640 | elapsed time per iteration (ms): 7624.3 | learning\
 rate: 6.676E-06 | global batch size:    64 | loss scale: 1.0 | gr"""),
    # Never a loss, but everything else; begins in the middle of a line.
    Sample(source="github.com/bigscience-workshop/Megatron-DeepSpeed/issues/396", stack=MEGATRON, num_runs=1,
        num_lines=0, global_batch_size=8, is_broken=True, text="""\
d norm: nan | actual seqlen:  2048 | number of skipped iterations:   0 | number of nan iterations:   0 | samples per\
 second: 1.886 | TFLOPs: 78.46 |
 iteration     5426/  250000 | consumed samples:        43408 | consumed tokens:     88899584 | elapsed time per\
 iteration (ms): 4247.9 | learning rate: 2.999E-04 | global batch size:     8 | loss scale: 1.0 | grad norm: nan |\
 actual seqlen:  2048 | number of skipped iterations:   0 | number of nan iterations:   0 | samples per second: 1.883\
 | TFLOPs: 78.36 |
 iteration     5427/  250000 | consumed samples:        43416 | consumed tokens:     88915968 | elapsed time per\
 iteration (ms): 4225.8 | learning rate: 2.999E-04 | global batch size:     8 | loss scale: 1.0 | grad norm: nan |\
 actual seqlen:  2048 | number of skipped iterations:   0 | number of nan iterations:   0 | samples per second: 1.893\
 | TFLOPs: 78.77 |"""),
    # Experts: a second loss; a time of day before the line.
    Sample(source="github.com/NVIDIA/Megatron-LM/issues/756", stack=MEGATRON, num_runs=1, num_lines=2,
        first=(43, 1.825991), last=(44, 1.875063), global_batch_size=128, text="""\
 [2024-04-06 02:59:36] iteration       43/     100 | consumed samples:         5504 | elapsed time per iteration (ms):\
 5444.9 | throughput per GPU (TFLOP/s/GPU): 239.8 | learning rate: 8.600000E-06 | global batch size:   128 | lm loss:\
 1.825991E+00 | load_balancing_loss: 1.019746E+00 | loss scale: 1.0 | grad norm: 1.426 | num zeros: 0.0 | number of\
 skipped iterations:   0 | number of nan iterations:   0 |
 [2024-04-06 02:59:41] iteration       44/     100 | consumed samples:         5632 | elapsed time per iteration (ms):\
 5533.8 | throughput per GPU (TFLOP/s/GPU): 236.0 | learning rate: 8.800000E-06 | global batch size:   128 | lm loss:\
 1.875063E+00 | load_balancing_loss: 1.020033E+00 | loss scale: 1.0 | grad norm: 1.327 | num zeros: 0.0 | number of\
 skipped iterations:   0 | number of nan iterations:   0 |"""),
    # A label and a time of day.
    Sample(source="github.com/FlagAI-Open/OpenSeek README.md", stack=MEGATRON, num_runs=1, num_lines=1,
        first=(1, 11.92634), last=(1, 11.92634), global_batch_size=1024, text="""\
[default0]: [2025-05-27 15:23:07] iteration        1/    24000 | consumed samples:          1024 | elapsed time per\
 iteration (ms): 271607.0 | throughput per GPU (TFLOP/s/GPU): 40.4 | learning rate: 1.500000E-06 | global batch size: \
 1024 | lm loss: 1.192634E+01 | load_balancing_loss: 1.041994E+00 | loss scale: 1.0 | grad norm: 5.960 | num zeros:\
 0.0 | params norm: 238.330 | number of skipped iterations:    0 | number of nan iterations:    0 |"""),
    # The next message follows on the same line.
    Sample(source="github.com/NVIDIA/dgxc-benchmarking llama3.1/README.md", stack=MEGATRON, num_runs=1, num_lines=1,
        first=(1, 12.58695), last=(1, 12.58695), global_batch_size=128, text="""\
[2025-12-19 10:49:15] iteration        1/       1 | consumed samples:          128 | elapsed time per iteration (ms):\
 20289.1 | learning rate: 3.000000E-05 | global batch size:   128 | lm loss: 1.258695E+01 | loss scale: 1.0 | grad\
 norm: 10.275 | number of skipped iterations:   0 | number of nan iterations:   0 |Number of parameters in transformer\
 layers in billions:  6.98"""),
    # A time of day in microseconds.
    Sample(source="github.com/NVIDIA/Megatron-LM/pull/5662", stack=MEGATRON, num_runs=1, num_lines=1,
        first=(20, 1.020935), last=(20, 1.020935), global_batch_size=16, text="""\
[2026-07-10 05:46:31.627699] iteration       20/      20 | consumed samples:          320 | elapsed time per iteration\
 (ms): 744.0 | learning rate: 0.000000E+00 | global batch size:    16 | lm loss: 1.020935E+00 | loss scale: 1.0 | grad\
 norm: 2.939 |"""),
)

_TRAINER_STATE = (
    # The batch size is that of one device.
    Sample(source="huggingface.co/tmnam20/mdeberta-v3-base-wnli-1 trainer_state.json", stack=TRAINER_STATE, num_runs=1,
        num_lines=1, first=(50, 0.6961), last=(50, 0.6961), text="""\
{
  "best_metric": null,
  "best_model_checkpoint": null,
  "epoch": 3.0,
  "eval_steps": 500,
  "global_step": 60,
  "is_hyper_param_search": false,
  "is_local_process_zero": true,
  "is_world_process_zero": true,
  "log_history": [
    {"epoch": 2.5, "learning_rate": 3.3333333333333333e-06, "loss": 0.6961, "step": 50},
    {"epoch": 3.0, "step": 60, "total_flos": 170752373232924.0, "train_loss": 0.695245631535848, "train_runtime":\
 20.4172, "train_samples_per_second": 93.304, "train_steps_per_second": 2.939}
  ],
  "logging_steps": 50, "max_steps": 60, "num_input_tokens_seen": 0, "num_train_epochs": 3, "save_steps": 500,\
 "total_flos": 170752373232924.0, "train_batch_size": 32, "trial_name": null, "trial_params": null
}"""),
    # Saved before the end: no entry with a runtime. Shortened.
    Sample(source="huggingface.co/ibrahimsharaf/AraT5_stage2 trainer_state.json", stack=TRAINER_STATE, num_runs=1,
        num_lines=1, first=(313, 3.4723), last=(313, 3.4723), num_evaluation_lines=1, text="""\
{
  "epoch": 1.0, "eval_steps": 500, "global_step": 313,
  "log_history": [
    {"epoch": 1.0, "grad_norm": 5.078810691833496, "learning_rate": 1.779359430604982e-07, "loss": 3.4723, "step": 313},
    {"epoch": 1.0, "eval_bleu": 14.0473, "eval_gen_len": 9.0129, "eval_loss": 2.642693519592285, "eval_runtime":\
 169.9103, "eval_samples_per_second": 58.855, "eval_steps_per_second": 1.842, "step": 313}
  ],
  "logging_steps": 500, "max_steps": 313, "save_steps": 500
}"""),
    # A history of no entry. Shortened.
    Sample(source="huggingface.co/ukparkk/iljoo-chatbot-8b-test trainer_state.json", stack=TRAINER_STATE, num_runs=0,
        num_lines=0, text="""\
{"global_step": 13850, "log_history": [], "train_batch_size": 8}"""),
)
# fmt: on

SAMPLES = (*_CEREBRAS, *_HUGGING_FACE, *_TORCHTITAN, *_MEGATRON, *_TRAINER_STATE)
