"""What is allowed: policy files, rules, waivers and the verdict. Pure; no torch."""
