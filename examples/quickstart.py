"""Loads logged scenes, drives a car follower through them, prints its metrics and draws the first scene."""

import tether

scenes = tether.open_split("test")
rollouts = tether.drive(tether.IDM(), scenes[:4], world="log_replay")
print(rollouts.metrics())
rollouts.draw("scene.gif")
