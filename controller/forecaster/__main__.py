"""See `controller.forecaster.process`."""

from controller.forecaster.process import main

main()
