"""The report: `report.json` for programs, `report.md` made from it for people, `samples.npz` for doubters."""
