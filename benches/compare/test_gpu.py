"""What gpu.py makes of results: tables and verdicts. `python3 -m unittest discover benches/compare`"""

import unittest

import gpu


def result(step_ms, peak_mib):
    return {"step_ms_median": step_ms, "patches_per_s": 6e3 / step_ms, "peak_mem_mib": peak_mib, "version": "1", "mode": "m"}


def line(number):
    return {"label": f"op{number}: kernel", "count": 2, "ms": 1.5, "share": 0.1, "gflop_s": 2e5, "gb_s": 1e3, "roofline_share": 0.5}


def row(srgan, tuned, failed=()):
    """A row with one result of each, as (ms, MiB)."""
    runs = {name: [result(*figures)] for name, figures in [("srgan", srgan), ("tuned", tuned)] if figures}
    profile = {"peaks": {"flops": 5e13, "bf16_flops": 7e14, "bandwidth": 4e12}, "tflop": 7.0, "gb": 12.0}
    profile |= {"arithmetic_ms": 10.0, "traffic_ms": 3.0, "least_ms": 11.0, "lines": [line(i) for i in range(12)]}
    return gpu.Row("10m", "pretrain", runs, {name: "it broke" for name in failed}, {"profile": profile})


def verdicts(*rows):
    return [holds for holds, _ in gpu.judge(rows)]


class Judging(unittest.TestCase):
    def test_speed_and_memory_have_floors(self):
        self.assertEqual(verdicts(row((20, 70), (20, 100))), [True, True])
        self.assertEqual(verdicts(row((20.1, 70), (20, 100))), [False, True])
        self.assertEqual(verdicts(row((10, 71), (20, 100))), [True, False])

    def test_what_could_not_be_measured_does_not_hold(self):
        self.assertEqual(verdicts(row((20, 70), None, ["tuned"])), [False])
        self.assertEqual(verdicts(row(None, (20, 100), ["srgan"])), [False])
        self.assertEqual(verdicts(gpu.Row("10m", "pretrain")), [False])

    def test_ratios_are_those_of_rounds(self):
        several = row((20, 70), (40, 100))
        several.runs["srgan"] += [result(10, 70), result(10, 70)]
        several.runs["tuned"] += [result(30, 100), result(10, 100)]
        self.assertEqual([round(ratio, 9) for ratio in several.ratios("srgan", "patches_per_s")], [2, 3, 1])


class Tables(unittest.TestCase):
    def test_all_of_a_result_is_shown(self):
        text = gpu.markdown([row((20, 70), (30, 100), ["reference"])], "python3 gpu.py")
        for part in [
            "python3 gpu.py",
            "peaks: 50.00 TFLOP/s in f32, 700.00 TFLOP/s in bf16, 4000 GB/s",
            "| 10m | pretrain | srgan | 20.00 | 300.00 | 70 | 1.50 | 1.50–1.50 | 0.70 |",
            "| 10m | pretrain | PyTorch, reference | failed |",
            "| 10m | pretrain | PyTorch, tuned | 30.00 | 200.00 | 100 | 1.00 | 1.00–1.00 | 1.00 |",
            # The longer of arithmetic and traffic, of the step.
            "| 10m | pretrain | 7.00 | 10.00 | 12.00 | 3.00 | 11.00 | 20.00 | 50% |",
            "| 10m | pretrain | `op9: kernel` | 2 | 1.500 | 10.0% | 200.0 | 1000 | 50% |",
        ]:
            self.assertIn(part, text)
        self.assertNotIn("op10", text)
        columns = {line.count("|") for line in text.splitlines() if line.startswith("| ")}
        self.assertEqual(columns, {10})


if __name__ == "__main__":
    unittest.main()
