"""Write the demo's bundled detections: python docs/make_demo_film.py DIR, the set of `videomdm data film bundled
--moving 0 --height 180 400 --out DIR`."""

import sys

from videomdm_ext.data.film.bundled import BUNDLED, pack

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(f"{sys.argv[0]}: expected the folder of a film set, found {len(sys.argv) - 1} words. Name it.")
    content = pack(sys.argv[1])
    BUNDLED.write_bytes(content)
    print(f"{BUNDLED}: {len(content) / 1000:.0f} kB")
