#!/usr/bin/env bash
# img2dataset 1.47.0: its blurring of boxes hardly touches a small box beside a large one.
#
# source:     img2dataset/blurrer.py, `BoundingBoxBlurrer.__call__`: the largest box sets one kernel for all, which blurs the
#             mask of the boxes too, so that of a box much smaller than the kernel all but vanishes.
# behaviour:  noise in a box of 21 px keeps 0.19 of its standard deviation when the box is alone, and 0.45 when there is
#             another of 307 px elsewhere in the picture: almost half of each pixel is the original's.  Faces of a group
#             behind one in front stay recognisable.
# seen:       img2dataset 1.47.0: alone 0.19; beside a large one 0.45     (2026-11-30, Linux, Python 3.11)
# pairmill:   `pack.blur_faces` blurs each box by its own size.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet numpy==2.2.6 scipy==1.16.3 pyyaml==6.0.3 pydantic==2.12.4 opencv-python-headless==4.12.0.88 \
  albucore==0.0.23 eval-type-backport
"$folder/env/bin/pip" install --quiet --no-deps albumentations==1.4.24 img2dataset==1.47.0
seen=$(NO_ALBUMENTATIONS_UPDATE=1 "$folder/env/bin/python" -W ignore - "$folder" <<'PYTHON'
import glob
import runpy
import sys

import numpy as np

# The package's own __init__ imports its downloader, and all that needs.
(file,) = glob.glob(f"{sys.argv[1]}/env/lib/python*/site-packages/img2dataset/blurrer.py")
blur = runpy.run_path(file)["BoundingBoxBlurrer"]()
picture = np.random.default_rng(0).integers(0, 256, (512, 512, 3), np.uint8)
small, large, inside = [0.8, 0.8, 0.84, 0.84], [0.05, 0.05, 0.65, 0.65], np.s_[410:430, 410:430]
kept = [blur(picture, boxes)[inside].std() / picture[inside].std() for boxes in ([small], [small, large])]
print(f"alone {kept[0]:.2f}; beside a large one {kept[1]:.2f}")
PYTHON
)
echo "img2dataset 1.47.0: $seen"
[ "$seen" = "alone 0.19; beside a large one 0.45" ] || { echo "changed"; exit 1; }
echo "as described"
