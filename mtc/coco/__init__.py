"""COCO person annotations: reading and checking them, masks of usable pixels, and `COCO.json`, the list of people to train on."""
