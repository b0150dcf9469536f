"""The main job: `python train.py [preset] [--field value ...]`. The program is `tether/train.py`."""

from tether.console import train

if __name__ == "__main__":
    train()
