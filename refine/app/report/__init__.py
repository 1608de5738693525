"""The page that shows a finished run: files of a results directory -> evidence -> pictures -> report.html."""
