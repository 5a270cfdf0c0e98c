export { init, use, getInstanceByDom, registerTheme } from 'echarts/core';
import { use } from 'echarts/core';
import { LineChart, ScatterChart, BarChart, ParallelChart, CustomChart } from 'echarts/charts';
import { GridComponent, TooltipComponent, LegendComponent, MarkLineComponent, ParallelComponent, DataZoomInsideComponent, AriaComponent } from 'echarts/components';
import { SVGRenderer, CanvasRenderer } from 'echarts/renderers';
use([LineChart, ScatterChart, BarChart, ParallelChart, CustomChart, GridComponent, TooltipComponent, LegendComponent, MarkLineComponent, ParallelComponent, DataZoomInsideComponent, AriaComponent, CanvasRenderer]);
