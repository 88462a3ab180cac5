"""Second implementations of the methods that no package has, in plain numpy, written from the papers' facts alone.

They were written without a look at how `bwcache.policies` decides, and each one plays the whole video: a test feeds the
same denoiser to the policy and to its reference, and lays decisions and outputs side by side. That is a toy, written
twice (`toy.py`), or a real one at whose blocks the reference is asked (`opened.py`).
"""
