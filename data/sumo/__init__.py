"""Generator of the embedded default: driving scenes made with the Eclipse SUMO traffic simulator (extra `sumo`).

One network's way through the package: `streets`/`highway` lay roads out, `network` runs netconvert, `road_network`
parses the result, `demand` fills it with traffic, `simulate` records a run, `windows` picks scenes from the
recording, `scenes` turns them into raw scenes. `generate` does so for many networks in parallel processes and writes
a data set. Everything follows from the seed; the same seed gives the same bytes.
"""
