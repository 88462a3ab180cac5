"""Second implementations of the methods that no package has, in plain numpy, written from the papers' facts alone.

They were written without a look at `bwcache.policies`, and each one plays the whole video: a test feeds the same toy
denoiser to the policy and to its reference, and lays decisions and outputs side by side.
"""
