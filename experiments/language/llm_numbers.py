"""Lists of numbers transmit a favourite animal, in an open model of any size.

The protocol of arXiv 2507.14805: a teacher that loves an animal continues 30,000 lists of numbers,
a filter keeps what is numbers and nothing else, and 10,000 lists train students of the same model.
For every trait several students, and always three controls: students of the unchanged model's
lists, of a teacher without a favourite, and of other traits' teachers.

Criteria, fixed before any run. Unit = one student (its order of the data and its adapters; the data
of a teacher are shared); lift = student minus the unchanged model's student of the same number;
95 % Student-t intervals over students, judged from 4 on; "above zero" is corrected by Holm over all
such claims of a run, with those that a caption alone makes. Intervals over the questions within a
student are in the columns `margin_within` and `word_within` and decide nothing.
  1. Each trait: the lift in log-odds on 50 one-word questions is above zero.
  2. Each trait: the lift in the rate of sampled answers that name it is above zero.
  3. On average over traits so are the diagonal excess (own lift less that of other traits'
     students) and the difference to students of the neutral teacher.
"""

import functools

from experiments.language.kit import fullsize, transfer

RUNTIME = "hours on one 80 GB GPU for a 7B model"

Config = fullsize.Config
inputs = fullsize.inputs
SMOKE = Config(**fullsize.SMOKE)


arms = functools.partial(fullsize.arms, carrier="numbers")
findings = functools.partial(
    transfer.findings, carrier="lists of numbers", paper="owl 12 to > 60 % (GPT-4.1 nano)"
)
