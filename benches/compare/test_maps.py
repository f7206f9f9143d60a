"""What maps.py makes of results: tables and verdicts. `python3 -m unittest discover benches/compare`"""

import unittest

import maps
import runs


def row(srgan, forward, package, exact=None):
    """A row with these megapixels per second."""
    results = lambda speeds: [{"mp_per_s": speed, "peak_mem_mib": 100} for speed in speeds]
    best = {"window": 256, "batch": 1, "mode": "tuned", "reach": 40}
    return maps.Row("rcab", best, results(srgan), results(forward), results([package]), results([exact])[0] if exact else {})


class Judging(unittest.TestCase):
    def test_speed_has_floors(self):
        verdicts = lambda *of: [holds for holds, _ in maps.judge([row(*of)])]
        self.assertEqual(verdicts([2, 2, 2], [1, 1, 1], 1), [True, True])
        self.assertEqual(verdicts([1.9], [1], 0.5), [False, True])
        self.assertEqual(verdicts([2], [1], 1.1), [True, False])

    def test_a_ratio_is_the_median_of_those_of_pairs(self):
        self.assertEqual(row([2, 3, 8], [1, 3, 2], 1).ratios(row([2, 3, 8], [1, 3, 2], 1).forward), [2, 1, 4])
        self.assertIn("2.00 of the megapixels per second of PyTorch's", maps.judge([row([2, 3, 8], [1, 3, 2], 1)])[0][1])


class Showing(unittest.TestCase):
    def test_a_line_for_each_network(self):
        lines = maps.markdown([row([2], [1], 0.5, 0.25), row([3], [2], 1)]).splitlines()
        cells = [cell.strip() for cell in lines[2].strip("|").split("|")]
        self.assertEqual(cells[:6], ["rcab", "2.00", "1.00", "256, 1 at a time, tuned", "2.00", "2.00–2.00"])
        self.assertEqual(cells[6:], ["0.50", "4.00", "0.25", "8.00", "100", "100"])
        self.assertIn("| – | – |", lines[3])
        self.assertEqual({line.count("|") for line in lines}, {13})


class Reading(unittest.TestCase):
    def test_the_summary_of_a_map(self):
        said = "m.safetensors: averaged weights\nmap.tif: 2000 × 1000 × 4 uint16 · 3.9 s · 0.51 MP/s · peak memory 270 MiB\n"
        self.assertEqual(maps.summary(said, 4.0), {"seconds": 4.0, "mp_per_s": 0.5, "peak_mem_mib": 270})
        with self.assertRaises(runs.Failed):
            maps.summary("nothing", 1.0)


if __name__ == "__main__":
    unittest.main()
