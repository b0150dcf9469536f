"""Driving logs in, batches of `Scene`s out. The stations, in order; `scene` has the types, `errors` what goes wrong:

1. `womd*` (Waymo records; `egos`, `route`, `physics`) or `sumo/` (simulated traffic): a `raw.RawScene`, in the world.
2. `raw.localize`: a `LocalScene`, in the frame of its ego, which data sets store.
3. `records` (for SUMO: `sumo.generate`): which scenes are kept, in which split; `recordings` finds what is there twice.
4. `build`, in this process or with `beam`: the command; `statistics` counts what was kept and left out.
5. `builder`: files of a TFDS data set. `storage`: the bytes of one scene, to and fro.
6. `sources.open_split`: random access to the scenes of a split.
7. `instruction` and `padding.pad`: a `Record`, its `Scene` of fixed sizes; `validation` checks it.
8. `simulator.prepare`: the scene's map tile and road index.
9. `pipeline.SceneBatches`: shuffled batches, resumable. `text` and `tokenizer` hold the vocabulary of 7 and the policy.
"""
