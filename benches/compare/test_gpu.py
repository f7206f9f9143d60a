"""What gpu.py makes of results: tables and verdicts. `python3 -m unittest discover benches/compare`"""

import json
import tempfile
import unittest
from pathlib import Path
from unittest import mock

import gpu
import runs


def result(step_ms, peak_mib):
    return {"step_ms_median": step_ms, "patches_per_s": 6e3 / step_ms, "peak_mem_mib": peak_mib, "version": "1", "mode": "m"}


def line(number):
    return {"label": f"op{number}: kernel", "count": 2, "ms": 1.5, "share": 0.1, "gflop_s": 2e5, "gb_s": 1e3, "roofline_share": 0.5}


def row(srgan, tuned, failed=()):
    """A row with one result of each, as (ms, MiB)."""
    results = {name: [result(*figures)] for name, figures in [("srgan", srgan), ("tuned", tuned)] if figures}
    profile = {"peaks": {"flops": 5e13, "bf16_flops": 7e14, "bandwidth": 4e12}, "tflop": 7.0, "gb": 12.0}
    profile |= {"arithmetic_ms": 10.0, "traffic_ms": 3.0, "least_ms": 11.0, "lines": [line(i) for i in range(12)]}
    if srgan:
        results["srgan"][0]["profile"] = profile
    return gpu.Row("10m", "pretrain", results, {name: "it broke" for name in failed})


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

    def test_a_failure_after_good_rounds_does_not_hold(self):
        for program in ["srgan", "tuned"]:
            self.assertEqual(verdicts(row((20, 70), (20, 100), [program])), [False, True, True])
        self.assertEqual(verdicts(row((20, 70), (20, 100), ["reference"])), [True, True])

    def test_a_failure_is_said_with_its_reason(self):
        failed = row((20, 70), (20, 100))
        failed.failed["srgan"] = "srgan bench ended with 1:\nwarning: slow\nerror: the GPU is lost\n  start again"
        self.assertEqual(gpu.judge([failed])[0], (False, "10m pretrain: srgan failed: error: the GPU is lost"))

    def test_ratios_are_those_of_rounds(self):
        several = row((20, 70), (40, 100))
        several.runs["srgan"] += [result(10, 70), result(10, 70)]
        several.runs["tuned"] += [result(30, 100), result(10, 100)]
        self.assertEqual([round(ratio, 9) for ratio in several.ratios("srgan", "patches_per_s")], [2, 3, 1])


class Tables(unittest.TestCase):
    def test_all_of_a_result_is_shown(self):
        warned = row((20, 70), (30, 100), ["reference"])
        warned.warnings = ["warning: an algorithm is wrong"] * 2
        with mock.patch("sys.argv", ["gpu.py", "--only", "10m"]):
            text = gpu.markdown([warned])
        self.assertEqual(text.count("- warning: an algorithm is wrong"), 1)
        for part in [
            "python3 gpu.py --only 10m",
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


class Measuring(unittest.TestCase):
    """`main` with runs that are made up: each command's result, or its failure."""

    def main(self, run, *arguments):
        """The exit code, none if it was interrupted, and the file of results, which an earlier comparison has written."""
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            (work / "gpu.json").write_text("earlier")
            with mock.patch.multiple(gpu, WORK=work, run=run, programs=lambda args: ("srgan", "python")):
                with mock.patch("sys.argv", ["gpu.py", "--modes", "tuned", *arguments]), mock.patch("builtins.print"):
                    try:
                        code = gpu.main()
                    except KeyboardInterrupt:
                        code = None
            return code, (work / "gpu.json").read_text()

    def test_the_last_round_has_the_profile(self):
        commands = []

        def run(command):
            commands.append(command)
            return {**result(20, 70 if command[0] == "srgan" else 100), "warnings": []}

        self.assertEqual(self.main(run, "--only", "10m", "--phases", "pretrain", "--pairs", "2")[0], 0)
        self.assertEqual([(command[0], "--profile" in command) for command in commands],
                         [("srgan", False), ("srgan", False), ("python", False), ("srgan", True), ("python", False)])

    def test_without_srgan_nothing_else_is_tried_and_earlier_results_stay(self):
        commands = []

        def run(command):
            commands.append(command)
            raise runs.Failed("there is no GPU")

        self.assertEqual(self.main(run), (2, "earlier"))
        self.assertEqual(len(commands), 1)

    def test_each_row_is_saved_at_once(self):
        def run(command):
            if "adversarial" in command:
                raise KeyboardInterrupt
            return {**result(20, 70), "warnings": ["warning: slow"]}

        code, saved = self.main(run, "--only", "10m")
        first, second = json.loads(saved)
        self.assertEqual((code, len(first["runs"]["tuned"]), second["runs"]), (None, 3, {}))
        self.assertEqual(set(first["warnings"]), {"warning: slow"})


class Running(unittest.TestCase):
    def test_warnings_come_with_the_result(self):
        script = "echo 'warning: slow' >&2; echo other >&2; echo text; echo '{\"a\": 1}'"
        with mock.patch("builtins.print"):
            self.assertEqual(runs.run(["sh", "-c", script]), {"a": 1, "warnings": ["warning: slow"]})

    def test_programs_without_a_result_have_failed(self):
        for command in [["true"], ["echo", "text"], ["false"], ["no-such-program"]]:
            with self.assertRaises(runs.Failed):
                runs.run(command)


if __name__ == "__main__":
    unittest.main()
